package rpc

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

type message struct {
	Text string
}

func TestMessagesKeepTheirFiles(t *testing.T) {
	t.Parallel()
	a, f, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	b, err := FromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()

	big := strings.Repeat("x", 300<<10)
	go func() {
		defer a.Close()
		r, w, err := os.Pipe()
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		a.Send(message{"first"})
		a.Send(message{"with file"}, w)
		w.Close()
		a.Send(message{big})
	}()

	for _, want := range []struct {
		text  string
		files int
	}{{"first", 0}, {"with file", 1}, {big, 0}} {
		var m message
		files, err := b.Receive(&m)
		if err != nil {
			t.Fatal(err)
		}
		if m.Text != want.text || len(files) != want.files {
			t.Errorf("Receive() = %.20q with %d files, want %.20q with %d", m.Text, len(files), want.text, want.files)
		}
		closeAll(files)
	}
	if _, err := b.Receive(&message{}); !errors.Is(err, io.EOF) {
		t.Errorf("Receive() at the end = %v, want io.EOF", err)
	}
}

func TestForeignBytesAreRefused(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"hello\n", "1 {}\n", "-1 {}\n", "0 nonsense\n", "{}\n"} {
		a, f, err := Pair()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(line); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if _, err := a.Receive(&message{}); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("Receive() of %q = %v, want an error", line, err)
		}
		a.Close()
	}
}

// A process that is killed leaves what it had not read; that is its end as well.
func TestResetIsTheEnd(t *testing.T) {
	t.Parallel()
	a, f, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Send(message{"never read"}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := a.Receive(&message{}); !errors.Is(err, io.EOF) {
		t.Errorf("Receive() = %v, want io.EOF", err)
	}
}
