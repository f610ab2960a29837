package adminapi

import (
	"encoding/json"
	"net/http"
	"time"

	"firn"
	"firn/auth"
)

// UserRequest is the document that adds a user. Without keys a pair is made.
type UserRequest struct {
	Name      string       `json:"name"`
	AccessKey string       `json:"access_key,omitempty"`
	SecretKey string       `json:"secret_key,omitempty"`
	Grants    []auth.Grant `json:"grants,omitempty"`
}

// KeyRequest is the document that adds a key. Empty, a pair is made.
type KeyRequest struct {
	AccessKey string          `json:"access_key,omitempty"`
	SecretKey string          `json:"secret_key,omitempty"`
	Expires   time.Time       `json:"expires,omitzero"`
	Policy    json.RawMessage `json:"policy,omitempty"` // narrows the key to what this document allows
	Note      string          `json:"note,omitempty"`
}

// RotateRequest replaces a key by a new one; the old one ends after the overlap.
type RotateRequest struct {
	OverlapSeconds int64 `json:"overlap_seconds"`
}

// GrantsRequest replaces a user's grants.
type GrantsRequest struct {
	Grants []auth.Grant `json:"grants"`
}

// NewUser is a user with its first key. The secret is shown this once.
type NewUser struct {
	User        auth.User        `json:"user"`
	Credentials auth.Credentials `json:"credentials"`
}

var errHalfKey = firn.NewError(firn.Invalid, "give access key and secret key together, or neither")

func credentials(access, secret string) (auth.Credentials, error) {
	if (access == "") != (secret == "") {
		return auth.Credentials{}, errHalfKey
	}
	return auth.Credentials{AccessKey: access, SecretKey: secret}, nil
}

func (h *Handler) listUsers(*http.Request) (any, error) { return h.users.List(), nil }

func (h *Handler) addUser(r *http.Request) (any, error) {
	var q UserRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	c, err := credentials(q.AccessKey, q.SecretKey)
	if err != nil {
		return nil, err
	}
	u, c, err := h.users.Add(r.Context(), q.Name, c, q.Grants)
	if err != nil {
		return nil, err
	}
	h.log.Info("user added", "user", u.Name, "access_key", c.AccessKey, "grants", u.Grants)
	return NewUser{User: u, Credentials: c}, nil
}

func (h *Handler) removeUser(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if to := r.URL.Query().Get("to"); to != "" {
		if h.identity == nil {
			return nil, firn.NewError(firn.Unsupported, "this site hands nothing over")
		}
		buckets, err := h.identity.HandOver(r.Context(), name, to)
		if err != nil {
			return nil, err
		}
		h.log.Info("buckets handed over", "from", name, "to", to, "buckets", buckets)
	}
	if err := h.users.Remove(r.Context(), name); err != nil {
		return nil, err
	}
	h.log.Info("user removed", "user", name)
	return nil, nil
}

func (h *Handler) setGrants(r *http.Request) (any, error) {
	var q GrantsRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if err := h.users.SetGrants(r.Context(), name, q.Grants); err != nil {
		return nil, err
	}
	u, err := h.users.Get(name)
	if err != nil {
		return nil, err
	}
	h.log.Info("grants changed", "user", u.Name, "grants", u.Grants)
	return u, nil
}

func (h *Handler) setLimits(r *http.Request) (any, error) {
	var l auth.Limits
	if err := decode(r, &l); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if err := h.users.SetLimits(r.Context(), name, l); err != nil {
		return nil, err
	}
	h.log.Info("limits changed", "user", name, "limits", l)
	return nil, nil
}

func (h *Handler) addKey(r *http.Request) (any, error) {
	var q KeyRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	c, err := credentials(q.AccessKey, q.SecretKey)
	if err != nil {
		return nil, err
	}
	user := r.PathValue("name")
	if c, err = h.users.AddKey(r.Context(), user, c, auth.KeyOptions{
		Expires: q.Expires.UTC().Truncate(time.Second), Policy: string(q.Policy), Note: q.Note,
	}); err != nil {
		return nil, err
	}
	h.log.Info("key added", "user", user, "access_key", c.AccessKey)
	return c, nil
}

// maxOverlap is the longest overlap of a rotation.
const maxOverlap = 366 * 24 * time.Hour

func (h *Handler) rotateKey(r *http.Request) (any, error) {
	var q RotateRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	overlap := time.Duration(q.OverlapSeconds) * time.Second
	if q.OverlapSeconds < 0 || q.OverlapSeconds > int64(maxOverlap/time.Second) {
		return nil, firn.NewError(firn.Invalid, "the overlap of a rotation is 0 to 366 days")
	}
	key := r.PathValue("key")
	c, err := h.users.RotateKey(r.Context(), key, overlap)
	if err != nil {
		return nil, err
	}
	h.log.Info("key rotated", "access_key", key, "new_access_key", c.AccessKey, "overlap", overlap)
	return c, nil
}

func (h *Handler) removeKey(r *http.Request) (any, error) {
	key := r.PathValue("key")
	if err := h.users.RemoveKey(r.Context(), key); err != nil {
		return nil, err
	}
	h.log.Info("key removed", "access_key", key)
	return nil, nil
}
