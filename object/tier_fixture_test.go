package object

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/object/envelope"
	"firn/object/record"
	"firn/vfs"
)

// fakeTiers are tiers in memory that are stricter than real ones: nothing is overwritten, nothing removed twice.
type fakeTiers struct {
	mu    sync.Mutex
	blobs map[string][]byte // by tier and key
	away  map[string]bool   // tiers that cannot be reached
	opens int               // requests for content
	bytes int64             // asked for
	spoil func(p []byte) []byte
	hook  func() // called once, by the next request
}

func newTiers() *fakeTiers {
	return &fakeTiers{blobs: map[string][]byte{}, away: map[string]bool{}}
}

func (f *fakeTiers) clone() *fakeTiers {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &fakeTiers{blobs: maps.Clone(f.blobs), away: maps.Clone(f.away)}
}

func (f *fakeTiers) at(tier, key string) ([]byte, error) {
	if f.away[tier] {
		return nil, firn.NewError(firn.Unavailable, "no route to host")
	}
	p, ok := f.blobs[tier+"/"+key]
	if !ok {
		return nil, firn.NewError(firn.NotFound, "no such blob")
	}
	return p, nil
}

func (f *fakeTiers) Open(_ context.Context, tier, key string, offset, length int64) (io.ReadCloser, error) {
	f.called()
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := f.at(tier, key)
	if err != nil {
		return nil, err
	}
	f.opens++
	f.bytes += length
	p = p[min(offset, int64(len(p))):min(offset+length, int64(len(p)))]
	if f.spoil != nil {
		p = f.spoil(bytes.Clone(p))
	}
	return io.NopCloser(bytes.NewReader(p)), nil
}

func (f *fakeTiers) Size(_ context.Context, tier, key string) (int64, error) {
	f.called()
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := f.at(tier, key)
	return int64(len(p)), err
}

func (f *fakeTiers) called() {
	f.mu.Lock()
	hook := f.hook
	f.hook = nil
	f.mu.Unlock()
	if hook != nil {
		hook()
	}
}

func (f *fakeTiers) put(tier, key string, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blobs[tier+"/"+key] != nil {
		return fmt.Errorf("%s/%s is overwritten", tier, key)
	}
	f.blobs[tier+"/"+key] = bytes.Clone(append(p, 0)[:len(p)])
	return nil
}

func (f *fakeTiers) remove(tier, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.blobs[tier+"/"+key]; !ok {
		return fmt.Errorf("%s/%s is removed, and not there", tier, key)
	}
	delete(f.blobs, tier+"/"+key)
	return nil
}

func (f *fakeTiers) names() []string { return slices.Sorted(maps.Keys(f.blobs)) }

// fiveMiB is content of the least size of a part that is not the last.
var fiveMiB = sync.OnceValue(func() string { return big(MinPart) })

// tiered is a fixture with tiers.
func tiered(t testing.TB, o Options) (*fixture, *fakeTiers) {
	f := newFixture(t, vfs.NewMem(), o)
	f.bucket("bucket", BucketOptions{})
	return f, f.tiers
}

// copyTo does what a mover does up to the switch.
func (f *fixture) copyTo(tiers *fakeTiers, bucket, key, versionID, tier string) (Ref, record.TierBlob, error) {
	ctx := context.Background()
	o, err := f.Open(ctx, bucket, key, versionID)
	if err != nil {
		return Ref{}, record.TierBlob{}, err
	}
	defer o.Close()
	ref := RefOf(o.Version)
	name := fmt.Sprintf("%s@%d", key, f.clock.Now())
	list, err := f.Reserve(ctx, tier, name)
	if err != nil {
		return ref, record.TierBlob{}, err
	}
	var b bytes.Buffer
	if n, err := o.WriteStored(ctx, &b, 0, o.Version.Size); err != nil || n != o.Version.Size {
		return ref, list[0], fmt.Errorf("%d bytes: %w", n, err)
	}
	return ref, list[0], tiers.put(tier, name, b.Bytes())
}

func (f *fixture) move(tiers *fakeTiers, key, versionID, tier string, o MoveOptions) (*record.Version, error) {
	ref, blob, err := f.copyTo(tiers, "bucket", key, versionID, tier)
	if err != nil {
		return nil, err
	}
	return f.Switch(context.Background(), ref, blob, o)
}

func (f *fixture) mustMove(tiers *fakeTiers, key, tier string, o MoveOptions) *record.Version {
	f.t.Helper()
	v, err := f.move(tiers, key, "", tier, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

func (f *fixture) ref(key, versionID string) Ref {
	f.t.Helper()
	v, err := f.Head(context.Background(), "bucket", key, versionID)
	if err != nil {
		f.t.Fatal(err)
	}
	return RefOf(v)
}

// sweep removes from the tiers what may go, and returns what is left there.
func (f *fixture) sweep(tiers *fakeTiers, names ...string) []string {
	f.t.Helper()
	ctx := context.Background()
	for _, tier := range names {
		list, err := f.TierGarbage(ctx, tier, f.now.now().Add(time.Hour))
		if err != nil {
			f.t.Fatal(err)
		}
		for _, b := range list {
			// Of a copy that was cut off nothing may be there.
			_ = tiers.remove(b.Tier, b.Key)
		}
		if err := f.Forget(ctx, list...); err != nil {
			f.t.Fatal(err)
		}
	}
	return tiers.names()
}

// giveUp frees what was reserved and is not in use.
func (f *fixture) giveUp(names ...string) {
	f.t.Helper()
	for _, tier := range names {
		list, err := f.TierBlobs(context.Background(), tier, "")
		if err != nil {
			f.t.Fatal(err)
		}
		for _, b := range list {
			if b.State != record.TierReserved {
				continue
			}
			if err := f.Free(context.Background(), b); err != nil {
				f.t.Fatal(err)
			}
		}
	}
}

// upload makes a multipart object of the given parts.
func (f *fixture) upload(key string, enc *envelope.Encryption, parts ...string) {
	f.t.Helper()
	ctx := context.Background()
	o := PutOptions{Encryption: enc}
	if enc != nil {
		o.DataKey = dataKey()
	}
	id, err := f.CreateUpload(ctx, "bucket", key, PutOptions{Encryption: enc})
	if err != nil {
		f.t.Fatal(err)
	}
	var list []CompletePart
	for n, c := range parts {
		p, err := f.PutPart(ctx, "bucket", key, id, n+1, strings.NewReader(c), PutOptions{Size: -1, DataKey: o.DataKey})
		if err != nil {
			f.t.Fatal(err)
		}
		list = append(list, CompletePart{Number: n + 1, ETag: fmt.Sprintf("%x", p.MD5)})
	}
	if _, err := f.CompleteUpload(ctx, "bucket", key, id, list, CompleteOptions{Size: -1}); err != nil {
		f.t.Fatal(err)
	}
}
