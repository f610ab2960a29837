package config

import (
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

const backupsSection = "backups"

// backups applies the section backups: one section a name, each with the keys of BackupKeys. What a schedule or a
// pattern means is checked by who runs it.
func (w *walker) backups(n ast.Node) {
	w.e.Backups = named(w, n, backupsSection, BackupKeys(), DefaultBackup, w.checkBackup)
}

func (w *walker) checkBackup(m *ast.MappingValueNode, full string, b Backup) {
	switch {
	case b.Repository == "":
		w.bad(m.Key, full, "has no repository: give a URL or place:NAME")
	case (b.PasswordFile == "") == (b.PasswordCommand == ""):
		w.bad(m.Key, full, "needs password_file or password_command, one of them")
	case (len(b.Paths) == 0) == (b.Command == ""):
		w.bad(m.Key, full, "needs paths or command, one of them")
	case (b.Command == "") != (b.As == ""):
		w.bad(m.Key, full, "command and as go together: as names the output, such as db.sql")
	case b.Schedule == "":
		w.bad(m.Key, full, "has no schedule: give one, such as every 6h or @daily")
	case !slices.Contains([]string{"", "default", "fastest", "better", "off"}, b.Compression):
		w.bad(m.Key, full, "compression is default, fastest, better or off")
	case b.Jitter < 0 || b.KeepWithin < 0:
		w.bad(m.Key, full, "durations must not be negative")
	case min(b.KeepLast, b.KeepHourly, b.KeepDaily, b.KeepWeekly, b.KeepMonthly, b.KeepYearly) < 0:
		w.bad(m.Key, full, "what is kept must not be less than nothing")
	}
	for _, p := range b.Paths {
		if !strings.HasPrefix(p, "/") {
			w.bad(m.Key, full+".paths", "want absolute paths")
		}
	}
}
