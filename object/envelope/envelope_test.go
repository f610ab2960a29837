package envelope

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"

	"firn/seal"
)

func TestSealerBinds(t *testing.T) {
	e := New(Encryption{Method: Site})
	dk := &seal.Key{7}
	sealer := func(e *Encryption, dk *seal.Key, bucket uint64, key string) *Sealer {
		s, err := e.NewSealer(dk, bucket, key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := sealer(e, dk, 1, "key")
	k := s.NewKey()
	sealed := s.Seal(k, 1, 100)
	if got, err := sealer(e, dk, 1, "key").Open(sealed, 1, 100); err != nil || *got != *k {
		t.Fatal(err)
	}
	for name, s := range map[string]*Sealer{
		"bucket":   sealer(e, dk, 2, "key"),
		"key":      sealer(e, dk, 1, "kez"),
		"data key": sealer(e, &seal.Key{8}, 1, "key"),
		"version":  sealer(New(Encryption{Method: Site}), dk, 1, "key"),
	} {
		if _, err := s.Open(sealed, 1, 100); err != ErrWrongKey {
			t.Errorf("another %s: %v", name, err)
		}
	}
	for i := range sealed {
		p := bytes.Clone(sealed)
		p[i] ^= 1
		if _, err := s.Open(p, 1, 100); err != ErrWrongKey {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	if _, err := s.Open(sealed, 2, 100); err != ErrWrongKey {
		t.Errorf("another number: %v", err)
	}
	if _, err := s.Open(sealed, 1, 99); err != ErrWrongKey {
		t.Errorf("another size: %v", err)
	}
	if _, err := e.NewSealer(nil, 1, "key"); err != ErrNeedsKey {
		t.Errorf("no key: %v", err)
	}
	var none *Sealer
	if none.NewKey() != nil || none.Seal(nil, 1, 1) != nil || none.ETag([16]byte{1}) != [16]byte{1} {
		t.Error("the sealer of plain content does something")
	}
}

// TestSealedFormat holds what was stored before.
func TestSealedFormat(t *testing.T) {
	e := &Encryption{Method: Customer, Salt: [16]byte{1}}
	s, err := e.NewSealer(&seal.Key{1}, 5, "k")
	if err != nil {
		t.Fatal(err)
	}
	const want = "c5b8c86cdfcc16eef34896398982a31c66f397cb2547f424240c6cdde7183a5b" // computed by another program
	if got := hex.EncodeToString(s.key[:]); got != want {
		t.Error("the key is derived otherwise than docs/format/encryption.md says: " + got)
	}
}

func TestBinding(t *testing.T) {
	for want, e := range map[string]*Encryption{
		`{"aws:s3:arn":"arn:aws:s3:::b"}`:              {Method: Site},
		`{"aws:s3:arn":"arn:aws:s3:::b/k"}`:            {Method: Service},
		`{"a":"1","aws:s3:arn":"arn:aws:s3:::b/k"}`:    {Method: Service, Context: `{"a":"1","aws:s3:arn":"else"}`},
		`{"aws:s3:arn":"arn:aws:s3:::b","z":"\u003c"}`: {Method: Service, Context: `{"z":"<"}`, BucketKey: true},
	} {
		if got, err := e.Binding("b", "k"); err != nil || string(got) != want {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
	if _, err := (&Encryption{Context: "x"}).Binding("b", "k"); err == nil {
		t.Error("a context that is none")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(New(Encryption{Method: Service, Key: "k", Context: "{}", BucketKey: true, Wrapped: []byte("w")}).Append(nil))
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		e, err := Decode(p)
		if err != nil {
			return
		}
		again, err := Decode(e.Append(nil))
		if err != nil || !reflect.DeepEqual(e, again) && len(e.Wrapped) > 0 {
			t.Fatalf("%+v became %+v, %v", e, again, err)
		}
	})
}
