package object

import (
	"log/slog"
	"time"

	"firn/hlc"
	"firn/object/remote"
)

// Options are the settings of a Store. Zero values mean the defaults named here.
type Options struct {
	// Site is this site's number, part of every version id. Default 1. It must not change for a data directory.
	Site uint32
	// Clock is the site's hybrid logical clock. Default: one over Now. Open seeds it from the journal.
	Clock *hlc.Clock
	// InlineMax is the content size in bytes up to which content lives in the kv engine. Default InlineMax,
	// at most 1 MiB; negative: none does.
	InlineMax int
	// ReserveBytes is the free disk space below which writes are refused. Default 1 GiB; negative: none. Deletes
	// and the kv engine live on it: it should hold the engine's log and the flush of all its memtables (twice four
	// memtables, 128 MiB with pebblekv's default), a compaction's output beside its input, and the deletes' own
	// records. 1 GiB does for memtables of up to 64 MiB.
	ReserveBytes int64
	// BlockSize is the bytes of content under one checksum in blob files. Default: the block package's.
	BlockSize int
	// ScrubBytesPerSecond bounds the scrubber's reading. Default 4 MiB/s; negative: no scrubbing.
	ScrubBytesPerSecond int64
	// UploadMaxAge is the age at which an abandoned multipart upload is removed. Default UploadMaxAge.
	UploadMaxAge time.Duration
	// JournalKeepAge and JournalKeepEntries bound the journal: an entry is trimmed when it is older than the
	// age or when more than so many newer ones exist, and every cursor has passed it. Defaults 7 days,
	// 1,000,000. At least minJournal entries are kept.
	JournalKeepAge     time.Duration
	JournalKeepEntries uint64
	// Relaxed leaves blob files to the operating system's own writing back. A power loss may then take back
	// what was acknowledged. The kv engine has a switch of its own.
	Relaxed bool
	// Remote reads tiers. Default: none, and versions that are on a tier cannot be read.
	Remote remote.Tiers
	// Logger gets what an operator should know. Default: none.
	Logger *slog.Logger
	// Now is the wall clock. Default time.Now.
	Now func() time.Time
}

// minJournal entries are always kept: the newest of them seed the clock at start.
const minJournal = 10_000

func (o Options) withDefaults() Options {
	if o.Site == 0 {
		o.Site = 1
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Remote == nil {
		o.Remote = remote.None{}
	}
	if o.Clock == nil {
		o.Clock = hlc.New(o.Now)
	}
	switch {
	case o.InlineMax == 0:
		o.InlineMax = InlineMax
	case o.InlineMax < 0:
		o.InlineMax = 0
	}
	o.InlineMax = min(o.InlineMax, 1<<20)
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 1 << 30
	}
	if o.ScrubBytesPerSecond == 0 {
		o.ScrubBytesPerSecond = 4 << 20
	}
	if o.UploadMaxAge == 0 {
		o.UploadMaxAge = UploadMaxAge
	}
	if o.JournalKeepAge == 0 {
		o.JournalKeepAge = 7 * 24 * time.Hour
	}
	if o.JournalKeepEntries == 0 {
		o.JournalKeepEntries = 1_000_000
	}
	o.JournalKeepEntries = max(o.JournalKeepEntries, minJournal)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
