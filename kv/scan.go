package kv

import "errors"

// Find is r.Get, with nil and no error where key is not there.
func Find(r Reader, dst, key []byte) ([]byte, error) {
	v, err := r.Get(dst, key)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return v, err
}

// Scan calls fn for the pairs lower <= key < upper, in order, until it returns an error, which Scan returns. Key and value
// are valid until fn returns.
func Scan(r Reader, lower, upper []byte, fn func(k, v []byte) error) (err error) {
	it, err := r.Iter(lower, upper)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.Value()
		if err != nil {
			return err
		}
		if err := fn(it.Key(), v); err != nil {
			return err
		}
	}
	return it.Err()
}
