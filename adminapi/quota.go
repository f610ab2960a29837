package adminapi

import (
	"context"
	"net/http"
)

// Quota bounds a bucket; 0 is no bound.
type Quota struct {
	Bytes    int64 `json:"bytes"`    // of all versions
	Versions int64 `json:"versions"` // delete markers included
}

// QuotaStatus is a bucket's quota and what it holds.
type QuotaStatus struct {
	Quota        Quota `json:"quota"`
	UsedBytes    int64 `json:"used_bytes"`
	UsedVersions int64 `json:"used_versions"`
}

// Quotas are the bounds of buckets.
type Quotas interface {
	// Quota returns a bucket's quota.
	Quota(ctx context.Context, bucket string) (QuotaStatus, error)
	// SetQuota sets it.
	SetQuota(ctx context.Context, bucket string, q Quota) error
}

// ServeQuotas adds the calls on quotas.
func (h *Handler) ServeQuotas(q Quotas) {
	h.mux.HandleFunc("GET /admin/v1/buckets/{bucket}/quota", h.api(func(r *http.Request) (any, error) {
		return q.Quota(r.Context(), r.PathValue("bucket"))
	}))
	h.mux.HandleFunc("PUT /admin/v1/buckets/{bucket}/quota", h.api(func(r *http.Request) (any, error) {
		var want Quota
		if err := decode(r, &want); err != nil {
			return nil, err
		}
		return nil, q.SetQuota(r.Context(), r.PathValue("bucket"), want)
	}))
}
