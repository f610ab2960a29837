// Package linear records histories of concurrent operations on single keys, with restarts and kill -9 in between, and
// asks porcupine whether some order of them explains every answer.
//
// It owns the model of a key: get, put, delete, and puts that depend on the state. It must never import a package of
// the product.
package linear

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// kind is what an operation does.
type kind uint8

const (
	get kind = iota
	put
	putIfAbsent // If-None-Match: *
	putIfMatch  // If-Match: ETag of match
	remove
)

var kindNames = [...]string{"get", "put", "put if absent", "put if match", "delete"}

// input is an operation as it was sent. Contents are numbers; 0 is no object.
type input struct {
	key   string
	kind  kind
	value int // content written
	match int // content whose ETag is the condition of putIfMatch
}

// output is the answer.
type output struct {
	// unknown says that no answer came: it happened before the server died, or never. The operation's return time is
	// that of the server's death, because a dead process cannot change its files.
	unknown bool
	value   int  // content read by get, 0 for not found
	refused bool // a condition did not hold
}

func (in input) String() string {
	switch in.kind {
	case put, putIfAbsent:
		return fmt.Sprintf("%s %s=%d", kindNames[in.kind], in.key, in.value)
	case putIfMatch:
		return fmt.Sprintf("%s %s=%d after %d", kindNames[in.kind], in.key, in.value, in.match)
	}
	return kindNames[in.kind] + " " + in.key
}

func (out output) String() string {
	switch {
	case out.unknown:
		return "unknown"
	case out.refused:
		return "refused"
	}
	return fmt.Sprintf("ok %d", out.value)
}

// step returns the states a key may have after an operation with this answer; none where the answer is wrong.
func step(state int, in input, out output) []int {
	next := state
	holds := true
	switch in.kind {
	case get:
		if !out.unknown && out.value != state {
			return nil
		}
		return []int{state}
	case put:
		next = in.value
	case putIfAbsent:
		holds, next = state == 0, in.value
	case putIfMatch:
		holds, next = state == in.match && state != 0, in.value
	case remove:
		next = 0
	}
	switch {
	case out.unknown && holds:
		return []int{state, next}
	case out.unknown:
		return []int{state}
	case out.refused == holds:
		return nil
	case out.refused:
		return []int{state}
	}
	return []int{next}
}

// model is the sequential specification of a bucket: each key for itself.
func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			var keys []string
			for _, op := range history {
				key := op.Input.(input).key
				if byKey[key] == nil {
					keys = append(keys, key)
				}
				byKey[key] = append(byKey[key], op)
			}
			parts := make([][]porcupine.Operation, 0, len(keys))
			for _, key := range keys {
				parts = append(parts, byKey[key])
			}
			return parts
		},
		Init: func() []any { return []any{0} },
		Step: func(state, in, out any) []any {
			var next []any
			for _, s := range step(state.(int), in.(input), out.(output)) {
				next = append(next, s)
			}
			return next
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%v: %v", in, out) },
	}
	return m.ToModel()
}
