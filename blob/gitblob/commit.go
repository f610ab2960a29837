package gitblob

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"firn"
	"firn/internal/gitrepo"
)

const (
	// maxGroup is how many requests go into one commit.
	maxGroup = 128
	// maxRaces is how often a commit is made anew because another client was faster, before it is said to the caller.
	maxRaces = 60
	// maintainAfter is how many commits, and with them packs, are merged into one.
	maintainAfter = 50
)

// commits is the one goroutine that makes commits: it takes all that wait, commits them together, and answers.
func (p *place) commits() {
	defer close(p.done)
	made, depth := 0, -1
	for {
		var group []*request
		select {
		case <-p.ctx.Done():
			return
		case r := <-p.queue:
			group = append(group, r)
		}
	gather:
		for len(group) < maxGroup {
			select {
			case r := <-p.queue:
				group = append(group, r)
			default:
				break gather
			}
		}
		committed := p.commitGroup(group)
		if !committed {
			continue
		}
		made++
		if depth >= 0 {
			depth++
		}
		// Upkeep that fails is tried again after the next commits; what was answered stands.
		if err := p.upkeep(made, &depth); err != nil && p.ctx.Err() == nil {
			p.opt.Log.Warn("upkeep of the Git repository failed", "repository", p.repo.Dir(), "error", err)
		}
	}
}

// commitGroup answers every request of the group and tells whether there was a commit.
func (p *place) commitGroup(group []*request) bool {
	// The work ends when nobody waits for it any more.
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	var waiting atomic.Int64
	waiting.Store(int64(len(group)))
	for _, r := range group {
		stop := context.AfterFunc(r.ctx, func() {
			if waiting.Add(-1) == 0 {
				cancel()
			}
		})
		defer stop()
	}
	answers, committed, err := p.commitAll(ctx, group)
	for i, r := range group {
		switch {
		case err != nil && r.ctx.Err() != nil:
			r.done <- r.ctx.Err()
		case err != nil && p.ctx.Err() != nil:
			r.done <- errClosed
		case err != nil:
			r.done <- err
		default:
			r.done <- answers[i]
		}
	}
	return committed
}

// commitAll commits what of the group can be, on top of the branch as it is. answers has the error of each request that
// the branch's state stands against; err is of all.
func (p *place) commitAll(ctx context.Context, group []*request) (answers []error, committed bool, err error) {
	p.mu.Lock()
	cat := p.mu.cat
	p.mu.Unlock()
	fresh := false
	for races := 0; ; {
		if cat == nil {
			if cat, err = p.refreshNow(ctx); err != nil {
				return nil, false, err
			}
			fresh = true
		}
		o, answers, sure := plan(cat, group)
		if !sure && !fresh {
			cat = nil // decided on what is known; before it is answered, the branch is asked
			continue
		}
		if len(o.changed) == 0 {
			return answers, false, nil
		}
		next, err := p.commit(ctx, o, group, answers)
		if err != nil {
			return nil, false, err
		}
		err = p.repo.Publish(ctx, cat.head, next)
		if err == nil {
			merged := o.merge(next)
			p.mu.Lock()
			p.mu.cat = merged
			p.mu.Unlock()
			return answers, true, nil
		}
		if !errors.Is(err, gitrepo.ErrRace) {
			return nil, false, err
		}
		if races++; races == maxRaces {
			return nil, false, firn.NewError(firn.Unavailable, "other clients were faster each time: the branch is too busy")
		}
		pause := time.Duration(rand.Int64N(int64(min(races, 10)) * int64(30*time.Millisecond)))
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-time.After(pause):
		}
		cat, fresh = nil, false
	}
}

// refreshNow asks where the branch is.
func (p *place) refreshNow(ctx context.Context) (*catalogue, error) {
	select {
	case p.ask <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.ask }()
	return p.refresh(ctx)
}

// plan decides the requests in order on top of cat. sure is false where an answer depends on cat being what the branch
// holds now, and no commit will prove it.
func plan(cat *catalogue, group []*request) (o *overlay, answers []error, sure bool) {
	o, answers, sure = newOverlay(cat), make([]error, len(group)), true
	for i, r := range group {
		if answers[i] = r.ctx.Err(); answers[i] != nil {
			continue
		}
		if answers[i] = check(o, r); answers[i] != nil {
			sure = false
			continue
		}
		for _, c := range r.changes {
			if c.put != nil || o.has(c.key) {
				o.set(c.key, c.put)
			} else {
				sure = false // nothing to delete
			}
		}
	}
	return o, answers, sure
}

// check tells what stands against a request, which is applied as a whole or not at all.
func check(o *overlay, r *request) error {
	if len(r.changes) == 1 {
		c := r.changes[0]
		switch {
		case c.create && o.has(c.key):
			return errExists
		case c.put != nil && o.nested(c.key):
			return errNested
		}
		return nil
	}
	for _, c := range r.changes {
		was, changed := o.changed[c.key]
		defer o.without(c.key, was, changed)
		o.set(c.key, c.put)
	}
	for _, c := range r.changes {
		if e := o.changed[c.key]; e != nil && o.nested(c.key) {
			return errNested
		}
	}
	return nil
}

// commit writes the commit that plan decided on, publishing nothing.
func (p *place) commit(ctx context.Context, o *overlay, group []*request, answers []error) (gitrepo.ID, error) {
	imp, err := p.repo.Import(ctx)
	if err != nil {
		return "", err
	}
	content := map[*entry]gitrepo.ID{}
	for i, r := range group {
		for _, c := range r.changes {
			if answers[i] == nil && c.put != nil && c.data != nil && o.changed[c.key] == c.put {
				content[c.put] = imp.Blob(c.data)
				c.put.pieces = []piece{{p.repo.BlobID(c.data), int64(len(c.data))}}
			}
		}
	}
	imp.Commit(o.base.head, time.Now(), message(o, p.repo.Writer()))
	// Deletes first: a blob may take the place of a directory.
	for key := range o.changed {
		imp.Delete(encodePath(key))
		imp.Delete(encodePath(key) + piecesSuffix)
	}
	for key, e := range o.changed {
		switch {
		case e == nil:
		case content[e] != "":
			imp.Modify(gitrepo.File, content[e], encodePath(key))
		case len(e.pieces) == 1:
			imp.Modify(gitrepo.File, e.pieces[0].id, encodePath(key))
		default:
			for n, piece := range e.pieces {
				imp.Modify(gitrepo.File, piece.id, piecePath(key, n))
			}
		}
	}
	return imp.Close()
}

// message says what a commit does. The last line makes it differ from every other writer's.
func message(o *overlay, writer string) string {
	var puts, deletes int
	var lines strings.Builder
	for _, key := range slices.Sorted(maps.Keys(o.changed)) {
		e, verb := o.changed[key], "put"
		if e == nil {
			verb = "delete"
			deletes++
		} else {
			puts++
		}
		if puts+deletes <= 50 {
			fmt.Fprintf(&lines, "%s %s\n", verb, key)
		}
	}
	subject := strings.TrimSpace(lines.String())
	if puts+deletes > 1 {
		subject = fmt.Sprintf("put %d, delete %d\n\n%s", puts, deletes, subject)
	}
	if puts+deletes > 50 {
		subject += fmt.Sprintf("\nand %d more", puts+deletes-50)
	}
	return fmt.Sprintf("%s\n\nFirn-Writer: %s\n", subject, writer)
}

// upkeep merges packs and, where the options say so, replaces a long history by one commit.
func (p *place) upkeep(made int, depth *int) error {
	if p.opt.History == "squash" {
		p.mu.Lock()
		cat := p.mu.cat
		p.mu.Unlock()
		if *depth < 0 {
			var err error
			if *depth, err = p.repo.Depth(p.ctx, cat.head); err != nil {
				*depth = -1
				return err
			}
		}
		if *depth >= p.opt.SquashAfter {
			*depth = -1
			return p.squash(cat)
		}
	}
	if made%maintainAfter == 0 {
		return p.repo.Maintain(p.ctx)
	}
	return nil
}

// squash replaces the history by one commit with the same tree. The branch moves only if it is still at cat, so that no
// other client's commit is lost.
func (p *place) squash(cat *catalogue) error {
	if p.repo.Remote() {
		if err := p.repo.Pack(p.ctx); err != nil {
			return err
		}
	}
	next, err := p.repo.CommitTree(p.ctx, cat.head, "squash\n\nFirn-Writer: "+p.repo.Writer()+"\n")
	if err != nil {
		return err
	}
	err = p.repo.Publish(p.ctx, cat.head, next)
	if errors.Is(err, gitrepo.ErrRace) {
		return nil // another commit came; the history is looked at again after the next of ours
	}
	if err != nil {
		return err
	}
	squashed := &catalogue{head: next, entries: cat.entries}
	p.mu.Lock()
	p.mu.cat = squashed
	p.mu.Unlock()
	// What a put of ours has written and not committed yet stays, however long it takes.
	before := time.Now().Add(-p.opt.Grace)
	p.mu.Lock()
	for _, begun := range p.mu.puts {
		if begun.Before(before) {
			before = begun
		}
	}
	p.mu.Unlock()
	return p.repo.Collect(p.ctx, before.Add(-2*time.Second))
}
