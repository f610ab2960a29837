package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"

	"firn"
	"firn/vfs"
)

// WebhookOptions say where lines are sent.
type WebhookOptions struct {
	URL   string
	Token string       // sent as Authorization: Bearer; "" is none
	Log   *slog.Logger // nil discards
	// Client sends; nil is one that gives up a request after a minute.
	Client *http.Client
}

// Webhook sends the lines of a record to a URL, several to a POST of application/x-ndjson, in order and at least
// once. The files are its spool: what is not sent yet is read from them, after a restart too, and what they lose to
// their own bounds is not sent.
type Webhook struct {
	log  *Log
	o    WebhookOptions
	last uint64 // number of the last line that was taken
}

const (
	positionName = "webhook.json"
	maxBatch     = 1 << 20 // bytes of a POST
)

type position struct {
	Sent uint64 `json:"sent"`
}

// NewWebhook returns a Webhook for the lines of l, from where the last one stopped.
func NewWebhook(l *Log, o WebhookOptions) (*Webhook, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: time.Minute}
	}
	w := &Webhook{log: l, o: o}
	b, err := os.ReadFile(filepath.Join(l.o.Dir, positionName))
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	var p position
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	w.last = p.Sent
	return w, firn.E("read position of the audit webhook", l.o.Dir, err)
}

// Run sends lines until ctx ends, and returns nil then. A receiver that does not answer 2xx is asked again, at most
// every five minutes.
func (w *Webhook) Run(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = time.Second, 5*time.Minute
	failing := false
	for ctx.Err() == nil {
		grown := w.log.changed() // before looking, so that nothing is missed
		batch, last, err := w.next()
		if err == nil && len(batch) == 0 {
			select {
			case <-grown:
			case <-ctx.Done():
			}
			continue
		}
		if err == nil {
			err = w.send(ctx, batch)
		}
		if err == nil {
			wait.Reset()
			if failing {
				w.o.Log.Info("audit webhook: lines are taken again")
			}
			failing, w.last = false, last
			err = w.save()
			if err == nil {
				continue
			}
		}
		if !failing && ctx.Err() == nil {
			w.o.Log.Warn("audit webhook: lines are not taken; they wait in the files", "error", err)
		}
		failing = true
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
		}
	}
	return nil
}

// next returns the lines after the last that was sent, and the number of their last.
func (w *Webhook) next() ([]byte, uint64, error) {
	files, err := list(w.log.o.Dir)
	if err != nil {
		return nil, 0, err
	}
	last := w.last
	var batch []byte
	for i, name := range files {
		if i+1 < len(files) {
			if first, _ := number(files[i+1]); first <= w.last+1 {
				continue // all of it was sent
			}
		}
		f, err := os.Open(filepath.Join(w.log.o.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile, as old
		}
		if err != nil {
			return nil, 0, err
		}
		r := bufio.NewReaderSize(f, maxLine)
		for len(batch) < maxBatch {
			b, err := r.ReadSlice('\n')
			if err != nil {
				if !errors.Is(err, io.EOF) {
					return nil, 0, errors.Join(err, f.Close())
				}
				break
			}
			plain, _, err := decode(b[:len(b)-1], w.log.o.Seal)
			var l struct {
				Seq uint64 `json:"seq"`
			}
			if err == nil {
				err = json.Unmarshal(plain, &l)
			}
			if err != nil {
				return nil, 0, errors.Join(err, f.Close())
			}
			if l.Seq > last {
				batch, last = append(append(batch, plain...), '\n'), l.Seq
			}
		}
		if err := f.Close(); err != nil {
			return nil, 0, err
		}
		if len(batch) > 0 {
			break
		}
	}
	return batch, last, nil
}

func (w *Webhook) send(ctx context.Context, batch []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.o.URL, bytes.NewReader(batch))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	if w.o.Token != "" {
		r.Header.Set("Authorization", "Bearer "+w.o.Token)
	}
	resp, err := w.o.Client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection is used again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return firn.NewError(firn.Unavailable, fmt.Sprintf("the receiver answered %s", resp.Status))
	}
	return nil
}

// save notes what was sent. It need not survive a power loss: lines may be sent again.
func (w *Webhook) save() error {
	b, err := json.Marshal(position{w.last})
	if err != nil {
		return err
	}
	path := filepath.Join(w.log.o.Dir, positionName)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return vfs.OS().Rename(path+".new", path)
}
