package etcd

import (
	"fmt"
	"runtime"
	"strings"
	"sync"

	"go.uber.org/zap/zapcore"
)

// journal takes etcd's log. It keeps the last errors, to explain why a server
// did not start or has ended, and stands between etcd and os.Exit.
type journal struct {
	fatal chan struct{} // closed at the first fatal entry
	once  sync.Once

	mu   sync.Mutex
	last []string // the newest errors; under mu
}

var (
	_ zapcore.Core           = (*journal)(nil)
	_ zapcore.CheckWriteHook = (*journal)(nil)
)

func newJournal() *journal { return &journal{fatal: make(chan struct{})} }

// Enabled drops everything below an error before it costs anything.
func (j *journal) Enabled(l zapcore.Level) bool { return l >= zapcore.ErrorLevel }

func (j *journal) With([]zapcore.Field) zapcore.Core { return j }

func (j *journal) Sync() error { return nil }

func (j *journal) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if j.Enabled(e.Level) {
		return ce.AddCore(e, j)
	}
	return ce
}

func (j *journal) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	text := e.Message
	for _, name := range []string{"error", "path", "dir"} {
		if v, ok := enc.Fields[name]; ok {
			text += fmt.Sprintf(": %v", v)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	const keep = 3
	j.last = append(j.last, text)
	if len(j.last) > keep {
		j.last = j.last[1:]
	}
	return nil
}

// OnWrite is called in place of os.Exit and of panic. What called it must not
// go on, so its goroutine ends.
func (j *journal) OnWrite(*zapcore.CheckedEntry, []zapcore.Field) {
	j.once.Do(func() { close(j.fatal) })
	runtime.Goexit()
}

// explain adds to err what etcd said last.
func (j *journal) explain(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.last) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, strings.Join(j.last, "; "))
}
