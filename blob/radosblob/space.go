//go:build rados

package radosblob

import (
	"context"
	"encoding/json"

	"firn/blob/driver"
)

// Space asks the monitors what the pool holds and can take, its quota included. A cluster without a manager daemon does
// not know.
func (p *pool) Space(ctx context.Context) (driver.Space, error) {
	var answer []byte
	err := p.call(ctx, func() error {
		b, _, err := p.conn.MonCommand([]byte(`{"prefix":"df","detail":"detail","format":"json"}`))
		answer = b
		return err
	})
	if err != nil {
		return driver.Space{}, err
	}
	return parseDF(answer, p.opt.Pool), nil
}

func parseDF(b []byte, pool string) driver.Space {
	var df struct {
		Stats struct {
			Total int64 `json:"total_bytes"`
		} `json:"stats"`
		Pools []struct {
			Name  string `json:"name"`
			Stats struct {
				Stored   int64 `json:"stored"`
				MaxAvail int64 `json:"max_avail"`
				Quota    int64 `json:"quota_bytes"`
			} `json:"stats"`
		} `json:"pools"`
	}
	none := driver.Space{Total: -1, Free: -1}
	if json.Unmarshal(b, &df) != nil || df.Stats.Total <= 0 {
		return none
	}
	for _, p := range df.Pools {
		if p.Name != pool {
			continue
		}
		s := driver.Space{Total: p.Stats.Stored + p.Stats.MaxAvail, Free: p.Stats.MaxAvail}
		if q := p.Stats.Quota; q > 0 {
			s.Total = min(s.Total, q)
			s.Free = max(0, min(s.Free, q-p.Stats.Stored))
		}
		return s
	}
	return none
}
