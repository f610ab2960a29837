package repo

import (
	"cmp"
	"slices"
)

// plan is what a prune will do with packs, by their numbers in the survey.
type plan struct {
	remove []uint32 // nothing in them is referred to
	repack []uint32 // what is referred to goes to new packs, then they are removed
}

// fewSmall is how many small packs of a kind may stay: each run leaves one or two.
const fewSmall = 8

// makePlan decides. It repacks the packs with the largest part of what nobody refers to first, until what is left of
// that is at most maxUnused of all, and packs that are much smaller than they could be where there are many.
func makePlan(packs []surveyed, packSize int64, maxUnused float64) plan {
	var p plan
	var total, unused int64
	var candidates []uint32
	small := [kinds][]uint32{}
	for n := range packs {
		k := &packs[n]
		if k.doomed || !k.listed {
			continue // being removed already; or not there
		}
		if k.live == 0 {
			if k.young {
				continue
			}
			p.remove = append(p.remove, uint32(n))
			continue
		}
		total += k.size
		if k.live < k.chunks {
			unused += k.waste()
			candidates = append(candidates, uint32(n))
		}
		if k.size < packSize/4 {
			small[k.kind] = append(small[k.kind], uint32(n))
		}
	}
	chosen := map[uint32]bool{}
	for _, s := range small {
		if len(s) > fewSmall {
			for _, n := range s {
				chosen[n] = true
				unused -= packs[n].waste()
			}
		}
	}
	slices.SortFunc(candidates, func(a, b uint32) int {
		x, y := &packs[a], &packs[b]
		return cmp.Or(-cmp.Compare(float64(x.waste())/float64(x.size), float64(y.waste())/float64(y.size)), cmp.Compare(a, b))
	})
	limit := int64(maxUnused * float64(total))
	for _, n := range candidates {
		if unused <= limit {
			break
		}
		if !chosen[n] {
			chosen[n] = true
			unused -= packs[n].waste()
		}
	}
	for n := range packs {
		if chosen[uint32(n)] {
			p.repack = append(p.repack, uint32(n))
		}
	}
	return p
}

// waste is how many bytes of a pack are of chunks nobody refers to.
func (k *surveyed) waste() int64 {
	if k.live == k.chunks {
		return 0
	}
	return max(0, k.size-k.bytes-int64(k.live)*entrySize-packHeader-packFooter)
}
