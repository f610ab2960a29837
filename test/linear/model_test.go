package linear

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// TestCheckerFindsBrokenHistories shows that the checker can say no.
func TestCheckerFindsBrokenHistories(t *testing.T) {
	op := func(client int, call, ret int64, in input, out output) porcupine.Operation {
		in.key = "k"
		return porcupine.Operation{ClientId: client, Call: call, Return: ret, Input: in, Output: out}
	}
	for _, tc := range []struct {
		name    string
		history []porcupine.Operation
		want    porcupine.CheckResult
	}{
		{"read of the last write", []porcupine.Operation{
			op(0, 1, 2, input{kind: put, value: 1}, output{}),
			op(0, 3, 4, input{kind: get}, output{value: 1}),
		}, porcupine.Ok},
		{"stale read", []porcupine.Operation{
			op(0, 1, 2, input{kind: put, value: 1}, output{}),
			op(0, 3, 4, input{kind: put, value: 2}, output{}),
			op(1, 5, 6, input{kind: get}, output{value: 1}),
		}, porcupine.Illegal},
		{"acknowledged write lost by a restart", []porcupine.Operation{
			op(0, 1, 2, input{kind: put, value: 1}, output{}),
			op(1, 9, 10, input{kind: get}, output{}),
		}, porcupine.Illegal},
		{"deleted object is back", []porcupine.Operation{
			op(0, 1, 2, input{kind: put, value: 1}, output{}),
			op(0, 3, 4, input{kind: remove}, output{}),
			op(1, 5, 6, input{kind: get}, output{value: 1}),
		}, porcupine.Illegal},
		{"read that goes back in time", []porcupine.Operation{
			op(0, 1, 9, input{kind: put, value: 1}, output{}),
			op(1, 2, 3, input{kind: get}, output{value: 1}),
			op(2, 4, 5, input{kind: get}, output{}),
		}, porcupine.Illegal},
		{"two winners of put if absent", []porcupine.Operation{
			op(0, 1, 9, input{kind: putIfAbsent, value: 1}, output{}),
			op(1, 1, 9, input{kind: putIfAbsent, value: 2}, output{}),
		}, porcupine.Illegal},
		{"one winner of put if absent", []porcupine.Operation{
			op(0, 1, 9, input{kind: putIfAbsent, value: 1}, output{refused: true}),
			op(1, 1, 9, input{kind: putIfAbsent, value: 2}, output{}),
		}, porcupine.Ok},
		{"two winners of one ETag", []porcupine.Operation{
			op(0, 1, 2, input{kind: put, value: 1}, output{}),
			op(0, 3, 9, input{kind: putIfMatch, match: 1, value: 2}, output{}),
			op(1, 3, 9, input{kind: putIfMatch, match: 1, value: 3}, output{}),
		}, porcupine.Illegal},
		{"refused without a reason", []porcupine.Operation{
			op(0, 1, 2, input{kind: put, value: 1}, output{}),
			op(0, 3, 4, input{kind: putIfMatch, match: 1, value: 2}, output{refused: true}),
		}, porcupine.Illegal},
		{"unknown write that happened", []porcupine.Operation{
			op(0, 1, 9, input{kind: put, value: 1}, output{unknown: true}),
			op(1, 10, 11, input{kind: get}, output{value: 1}),
		}, porcupine.Ok},
		{"unknown write that did not", []porcupine.Operation{
			op(0, 1, 9, input{kind: put, value: 1}, output{unknown: true}),
			op(1, 10, 11, input{kind: get}, output{}),
		}, porcupine.Ok},
		{"unknown write that shows after a read without it", []porcupine.Operation{
			op(0, 1, 9, input{kind: put, value: 1}, output{unknown: true}),
			op(1, 10, 11, input{kind: get}, output{}),
			op(1, 12, 13, input{kind: get}, output{value: 1}),
		}, porcupine.Illegal},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := porcupine.CheckOperationsTimeout(model(), tc.history, time.Minute); got != tc.want {
				t.Errorf("checker says %v, want %v", got, tc.want)
			}
		})
	}
}
