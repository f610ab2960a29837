package cache

import "firn/telemetry"

// Metrics returns what to register with telemetry: descriptions of metrics whose names begin with "firn_" and name, by
// level where a level has them, and the function that reads them.
func (c *Cache) Metrics(name string) (read func() [][]telemetry.Sample, descs []telemetry.Desc) {
	prefix := "firn_" + name + "_"
	type metric struct {
		telemetry.Desc
		of func(*LevelStatus) float64
	}
	counter := func(name, help string, of func(*LevelStatus) uint64) metric {
		return metric{
			telemetry.Desc{Name: prefix + name + "_total", Help: help, Kind: telemetry.Counter, Label: "level"},
			func(s *LevelStatus) float64 { return float64(of(s)) },
		}
	}
	gauge := func(name, help string, of func(*LevelStatus) float64) metric {
		return metric{telemetry.Desc{Name: prefix + name, Help: help, Label: "level"}, of}
	}
	levels := []metric{
		counter("hits", "Blocks found, by level.", func(s *LevelStatus) uint64 { return s.Hits }),
		counter("hit_bytes", "Bytes of blocks found, by level.", func(s *LevelStatus) uint64 { return s.HitBytes }),
		counter("misses", "Blocks looked for in vain, by level.", func(s *LevelStatus) uint64 { return s.Misses }),
		counter("puts", "Blocks kept, by level.", func(s *LevelStatus) uint64 { return s.Puts }),
		counter("evicted", "Blocks that went to make room, by level.", func(s *LevelStatus) uint64 { return s.Evicted }),
		counter("expired", "Blocks found whose time was over, by level.", func(s *LevelStatus) uint64 { return s.Expired }),
		counter("damaged", "Blocks that failed their checksum, by level.", func(s *LevelStatus) uint64 { return s.Damaged }),
		counter("refused", "Blocks not kept for want of room or of speed, by level.", func(s *LevelStatus) uint64 { return s.Refused }),
		counter("errors", "Failed operations of a level's disk or server.", func(s *LevelStatus) uint64 { return s.Errors }),
		gauge("budget_bytes", "The most bytes a level may hold; 0 where its server decides.", func(s *LevelStatus) float64 { return float64(s.Budget) }),
		gauge("bytes", "Bytes a level holds, its files' where it has files.", func(s *LevelStatus) float64 { return float64(s.Bytes) }),
		gauge("memory_bytes", "Memory a level's index and blocks take.", func(s *LevelStatus) float64 { return float64(s.Memory) }),
		gauge("blocks", "Blocks a level holds.", func(s *LevelStatus) float64 { return float64(s.Blocks) }),
		gauge("pinned_bytes", "Bytes of blocks that are pinned.", func(s *LevelStatus) float64 { return float64(s.Pinned) }),
		gauge("oldest_seconds", "Age of a level's oldest block.", func(s *LevelStatus) float64 { return s.Oldest.Seconds() }),
	}
	for _, m := range levels {
		descs = append(descs, m.Desc)
	}
	descs = append(
		descs,
		telemetry.Desc{Name: prefix + "fills_total", Help: "Blocks fetched from their origin.", Kind: telemetry.Counter},
		telemetry.Desc{Name: prefix + "fill_bytes_total", Help: "Bytes fetched from the origin.", Kind: telemetry.Counter},
		telemetry.Desc{Name: prefix + "fills_failed_total", Help: "Fetches that failed or that nobody waited for any more.", Kind: telemetry.Counter},
		telemetry.Desc{Name: prefix + "fills_joined_total", Help: "Reads that shared the fetch of another.", Kind: telemetry.Counter},
		telemetry.Desc{Name: prefix + "fills_running", Help: "Fetches under way."},
	)
	return func() [][]telemetry.Sample {
		status := c.Status()
		out := make([][]telemetry.Sample, 0, len(descs))
		for _, m := range levels {
			var samples []telemetry.Sample
			for i := range status {
				samples = append(samples, telemetry.Sample{Label: status[i].Name, Value: m.of(&status[i])})
			}
			out = append(out, samples)
		}
		f := c.Fills()
		for _, v := range []float64{float64(f.Fills), float64(f.Bytes), float64(f.Failed), float64(f.Joined), float64(f.Running)} {
			out = append(out, []telemetry.Sample{{Value: v}})
		}
		return out
	}, descs
}
