package object

import (
	"firn/block"
	"firn/object/envelope"
	"firn/object/record"
	"firn/seal"
)

// protect gives c a key of its own, to be sealed by s; nil is for plain content.
func (c *content) protect(s *envelope.Sealer) { c.sealer, c.key = s, s.NewKey() }

// sealed returns the stored form of c's key as a part's, nil where nothing is sealed with it.
func (c *content) sealed(number int) []byte {
	if !c.large && c.size == 0 {
		return nil
	}
	return c.sealer.Seal(c.key, number, c.size)
}

// frame puts inline content that is encrypted into the form that is stored.
func (c *content) frame() {
	if c.key != nil && !c.large && c.size > 0 {
		c.framed = block.AppendSealedInline(getBuffer(int(c.size) + block.SealedInlineOverhead)[:0], c.inline, c.key)
	}
}

// Unlock gives the data key of encrypted content, before any read; content that is not encrypted needs none.
// envelope.ErrNeedsKey, envelope.ErrWrongKey.
func (o *Object) Unlock(dataKey *seal.Key) error {
	v := o.Version
	s, err := v.Encryption.NewSealer(dataKey, o.bucketID, v.Key)
	if err == nil && s != nil && v.Size > 0 {
		err = o.unlock(s)
	}
	return fail("read object", o.subject(), err)
}

func (o *Object) unlock(s *envelope.Sealer) error {
	// The first part tells a wrong key from content that was changed.
	k, err := openKey(s, &o.Version.Parts[0])
	if err != nil {
		return err
	}
	o.sealer = s
	if o.sealed == nil {
		return nil
	}
	if o.inline, err = block.UnsealInline(o.sealed, k); err != nil {
		o.report(err)
		return err
	}
	o.sealed = nil
	return nil
}

// openKey returns the key that p is sealed with.
func openKey(s *envelope.Sealer, p *record.Part) (*seal.Key, error) {
	return s.Open(p.Sealed, p.Number, p.Size)
}

// unseal gives the reader of a part its key where it can be had: a scrub has none.
func (o *Object) unseal(r *block.Reader, p *record.Part) error {
	if o.sealer == nil || r.Info().Codec != block.CodecAESGCM {
		return nil
	}
	k, err := openKey(o.sealer, p)
	if err != nil {
		return &block.CorruptError{File: p.Blob.String(), Block: -1, What: "key"}
	}
	r.Unseal(k)
	return nil
}

// reseal returns the key of part i of an open object as stored with a part of another version or upload.
func (o *Object) reseal(i int, to *envelope.Sealer, number int) ([]byte, error) {
	if to == nil {
		return nil, nil
	}
	p := &o.Version.Parts[i]
	k, err := openKey(o.sealer, p)
	if err != nil {
		return nil, err
	}
	return to.Seal(k, number, p.Size), nil
}
