package adminapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// KMS is what the API does about the keys of encryption.
type KMS interface {
	// Keys returns the named keys of the service in use.
	Keys(ctx context.Context) (KeyList, error)
	// Change makes, rotates, enables, disables or destroys a key: see KeyChange.
	Change(ctx context.Context, c KeyChange) error
	// Rewrap wraps every data key with the newest version of its key, in the service in use. No content is rewritten.
	Rewrap(ctx context.Context) (Rewrapped, error)
	// Reseal seals the keyring with a passphrase in place of what opens it now.
	Reseal(ctx context.Context, passphrase string) error
}

// KeyList is the keys of a key service.
type KeyList struct {
	Service string    `json:"service"`
	Default string    `json:"default"` // the key used where none is named
	Keys    []KeyInfo `json:"keys"`
}

// KeyInfo describes a named key.
type KeyInfo struct {
	Name    string    `json:"name"`
	State   string    `json:"state"` // enabled, disabled or destroyed
	Version int       `json:"version,omitempty"`
	Created time.Time `json:"created,omitzero"`
	Rotated time.Time `json:"rotated,omitzero"`
}

// KeyChange is a change of a named key.
type KeyChange struct {
	Name string `json:"name"`
	Do   string `json:"do"` // create, rotate, enable, disable or destroy
}

// Rewrapped is what a rewrap did.
type Rewrapped struct {
	Records   int64 `json:"records"`   // encrypted versions and uploads looked at
	Rewrapped int64 `json:"rewrapped"` // whose data key is wrapped anew
}

// ServeKMS adds the calls about keys of encryption. It is called before the first request.
func (h *Handler) ServeKMS(k KMS) {
	h.mux.HandleFunc("GET /admin/v1/kms", h.api(func(r *http.Request) (any, error) { return k.Keys(r.Context()) }))
	h.mux.HandleFunc("POST /admin/v1/kms", h.api(func(r *http.Request) (any, error) {
		var c KeyChange
		if err := decode(r, &c); err != nil {
			return nil, err
		}
		err := k.Change(r.Context(), c)
		if err == nil {
			h.log.Info("key changed", "key", c.Name, "change", c.Do)
		}
		return nil, err
	}))
	h.mux.HandleFunc("POST /admin/v1/kms/rewrap", h.private(func(w http.ResponseWriter, r *http.Request) {
		// It takes as long as there are records: the header goes out first, so that the client knows it runs.
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush() // the client is gone
		sum, err := k.Rewrap(r.Context())
		h.log.Info("data keys rewrapped", "looked_at", sum.Records, "rewrapped", sum.Rewrapped, "error", err)
		line := RewrapLine{Rewrapped: sum}
		if err != nil {
			line.Error = err.Error()
		}
		_ = json.NewEncoder(w).Encode(line)
	}))
	h.mux.HandleFunc("POST /admin/v1/kms/seal", h.api(func(r *http.Request) (any, error) {
		var q KeyringSeal
		if err := decode(r, &q); err != nil {
			return nil, err
		}
		return nil, k.Reseal(r.Context(), q.Passphrase)
	}))
}

// RewrapLine is the answer to a rewrap.
type RewrapLine struct {
	Rewrapped
	Error string `json:"error,omitempty"`
}

// KeyringSeal asks for the keyring to be sealed with a passphrase.
type KeyringSeal struct {
	Passphrase string `json:"passphrase"`
}
