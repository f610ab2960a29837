package adminapi

import (
	"net/http"

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
	AccessKey string `json:"access_key,omitempty"`
	SecretKey string `json:"secret_key,omitempty"`
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
	if c, err = h.users.AddKey(r.Context(), user, c); err != nil {
		return nil, err
	}
	h.log.Info("key added", "user", user, "access_key", c.AccessKey)
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
