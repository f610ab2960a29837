package repo

import "context"

// Sum returns the id that plain has, or would have, as a chunk of that kind: by it what came back from elsewhere is
// compared with what is stored, without loading it.
func (r *Repo) Sum(ctx context.Context, kind Kind, plain []byte) (ID, error) {
	w, err := r.worker(ctx)
	if err != nil {
		return ID{}, err
	}
	defer func() { r.workers <- w }()
	return w.sum(kind, plain), nil
}
