package adminapi

import (
	"context"
	"net/http"
)

// Identity is what the API does about groups, roles and policies.
type Identity interface {
	// Call performs an operation of AWS's IAM as root, such as "CreateGroup". The answer marshals to JSON.
	Call(ctx context.Context, action string, params map[string]string) (any, error)
	// Simulate says how a request would be decided, and which rule decides.
	Simulate(ctx context.Context, q Simulation) (Verdict, error)
	// HandOver makes a user the owner of all buckets of another, and returns their names.
	HandOver(ctx context.Context, from, to string) ([]string, error)
}

// IdentityCall is one operation of IAM.
type IdentityCall struct {
	Action string            `json:"action"`
	Params map[string]string `json:"params,omitempty"`
}

// Simulation is a request that is not made.
type Simulation struct {
	User       string              `json:"user,omitempty"`       // name; "" is an anonymous caller
	AccessKey  string              `json:"access_key,omitempty"` // instead of User: with what narrows the key
	Action     string              `json:"action"`               // such as s3:GetObject
	Bucket     string              `json:"bucket,omitempty"`
	Key        string              `json:"key,omitempty"`
	Conditions map[string][]string `json:"conditions,omitempty"` // values of condition keys, such as aws:SourceIp
}

// Verdict is how a request would be decided.
type Verdict struct {
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"`
}

// ServeIdentity adds the calls about groups, roles and policies. It is called before the first request.
func (h *Handler) ServeIdentity(id Identity) {
	h.identity = id
	h.mux.HandleFunc("POST /admin/v1/iam", h.api(func(r *http.Request) (any, error) {
		var q IdentityCall
		if err := decode(r, &q); err != nil {
			return nil, err
		}
		v, err := id.Call(r.Context(), q.Action, q.Params)
		if err == nil {
			h.log.Info("identity call", "action", q.Action)
		}
		return v, err
	}))
	h.mux.HandleFunc("POST /admin/v1/policy/simulate", h.api(func(r *http.Request) (any, error) {
		var q Simulation
		if err := decode(r, &q); err != nil {
			return nil, err
		}
		return id.Simulate(r.Context(), q)
	}))
}
