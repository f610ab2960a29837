package tlsconf

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"sync"
)

// orders adds to the answer that finalizes an order the address of the order, where the authority leaves it out. RFC
// 8555 does not ask for it there (Pebble leaves it out), and golang.org/x/crypto/acme cannot wait for the certificate
// without it.
type orders struct {
	next http.RoundTripper

	mu struct {
		sync.Mutex
		of map[string]string // finalize URL → order URL
	}
}

// maxOrders bounds what is remembered; orders follow each other within minutes.
const maxOrders = 64

func (o *orders) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := o.next.RoundTrip(r)
	if err != nil {
		return resp, err
	}
	location := resp.Header.Get("Location")
	o.mu.Lock()
	known := o.mu.of[r.URL.String()]
	o.mu.Unlock()
	if location == "" && known != "" {
		resp.Header.Set("Location", known)
	}
	if resp.StatusCode != http.StatusCreated || location == "" {
		return resp, nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxFile))
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	var order struct {
		Finalize string `json:"finalize"`
	}
	if json.Unmarshal(b, &order) == nil && order.Finalize != "" {
		o.mu.Lock()
		if len(o.mu.of) >= maxOrders || o.mu.of == nil {
			o.mu.of = map[string]string{}
		}
		o.mu.of[order.Finalize] = location
		o.mu.Unlock()
	}
	return resp, nil
}
