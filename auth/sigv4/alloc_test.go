//go:build !race

package sigv4

import (
	"net/http"
	"testing"
)

// The allocations of a verification are bounded, so that a change that adds some is noticed. The
// race detector makes pools forget at random, so this is not asked of it.
func TestAllocations(t *testing.T) {
	v := awsVerifier()
	get, presigned := awsExamples()["get object"](), awsExamples()["presigned"]()
	for name, c := range map[string]struct {
		r    *http.Request
		most float64
	}{"header": {get, 3}, "query": {presigned, 4}} {
		if n := testing.AllocsPerRun(100, func() {
			if _, err := v.Verify(c.r); err != nil {
				t.Fatal(err)
			}
		}); n > c.most {
			t.Errorf("%s: %v allocations, want at most %v", name, n, c.most)
		}
	}
}
