package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"labctl/lab/packet"
	"labctl/nodes/nodestest"
)

// frame is an Ethernet frame with a UDP datagram of size bytes.
func frame(size int) []byte {
	b := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, datagram(size)...)
	return b
}

// datagram is an IPv4 packet with a UDP datagram of size bytes.
func datagram(size int) []byte {
	ip := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	binary.BigEndian.PutUint16(ip[2:], uint16(28+size))
	udp := []byte{0x13, 0x88, 0, 9, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(udp[4:], uint16(8+size))
	return append(append(ip, udp...), make([]byte, size)...)
}

func testInterfaces() []Interface {
	return []Interface{
		{Endpoint: "node1", Name: "eth0", Link: packet.LinkEthernet, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
		{Endpoint: "node1", Name: "flannel0", Link: packet.LinkRaw},
	}
}

// tshark agrees with what was written, and warns of nothing.
func TestFileIsReadByTshark(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Tool("tshark"))
	at := time.Unix(1700000000, 123456789)
	var file bytes.Buffer
	w, err := NewWriter(&file, testInterfaces(), "udp port 9")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Packet{
		{Time: at, Interface: 0, Direction: In, Data: frame(5), Len: 47, Comment: "hop 1 of 2"},
		{Time: at.Add(time.Nanosecond), Interface: 1, Direction: Out, Data: datagram(6), Len: 34},
		{Time: at.Add(time.Hour), Interface: 0, Direction: OtherHost, Data: frame(100)[:50], Len: 142},
	} {
		if err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Statistics([]Stats{{Packets: 2, Bytes: 189, Drops: 7}, {Packets: 1, Bytes: 34}}, at, at.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if w.Whole() != int64(file.Len()) {
		t.Errorf("whole = %d, want %d", w.Whole(), file.Len())
	}
	got := tshark(t, file.Bytes(), "-T", "fields", "-e", "frame.interface_name", "-e", "frame.time_epoch", "-e", "frame.packet_flags_direction",
		"-e", "frame.cap_len", "-e", "frame.len", "-e", "ip.src", "-e", "udp.dstport", "-e", "frame.comment")
	want := strings.Join([]string{
		"node1:eth0\t1700000000.123456789\t0x00000001\t47\t47\t10.0.0.1\t9\thop 1 of 2",
		"node1:flannel0\t1700000000.123456790\t0x00000002\t34\t34\t10.0.0.1\t9\t",
		"node1:eth0\t1700003600.123456789\t0x00000001\t50\t142\t10.0.0.1\t9\t", ""}, "\n")
	if got != want {
		t.Errorf("tshark reads\n%s\nwant\n%s", got, want)
	}
}

// tshark reads a file; any word on its standard error fails the test.
func tshark(t *testing.T, file []byte, args ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f.pcapng")
	if err := os.WriteFile(name, file, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tshark", append([]string{"-n", "-r", name}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	for l := range strings.Lines(stderr.String()) {
		if !strings.HasPrefix(l, "Running as user") {
			t.Errorf("tshark: %s", l)
		}
	}
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	return string(out)
}

// blocks walks a file and returns the types of its blocks.
func blocks(t *testing.T, file []byte) []uint32 {
	t.Helper()
	var types []uint32
	for len(file) > 0 {
		if len(file) < 12 {
			t.Fatalf("%d bytes after the last block", len(file))
		}
		n := binary.LittleEndian.Uint32(file[4:])
		if n%4 != 0 || n < 12 || int(n) > len(file) || binary.LittleEndian.Uint32(file[n-4:]) != n {
			t.Fatalf("block of %d bytes, %d left, another length at its end", n, len(file))
		}
		types = append(types, binary.LittleEndian.Uint32(file))
		file = file[n:]
	}
	return types
}

// A file is whole blocks, whatever packets and comments are like.
func FuzzWriter(f *testing.F) {
	f.Add([]byte("packet"), "comment", "icmp", int64(1))
	f.Add([]byte{}, "", "", int64(-1))
	f.Fuzz(func(t *testing.T, data []byte, comment, filter string, at int64) {
		var file bytes.Buffer
		w, err := NewWriter(&file, testInterfaces(), filter)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write(Packet{Time: time.Unix(0, at), Data: data, Len: len(data), Comment: comment}); err != nil {
			t.Fatal(err)
		}
		if err := w.Statistics(make([]Stats, 2), time.Unix(0, at), time.Unix(0, at)); err != nil {
			t.Fatal(err)
		}
		if got, want := len(blocks(t, file.Bytes())), 1+2+1+2; got != want {
			t.Errorf("%d blocks, want %d", got, want)
		}
	})
}

// full is a disk with room for so many bytes.
type full struct {
	bytes.Buffer
	room int
}

func (f *full) Write(b []byte) (int, error) {
	n := min(len(b), f.room-f.Len())
	f.Buffer.Write(b[:n])
	if n < len(b) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

// What a full disk has taken ends at Whole.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := &full{room: 3000}
	w, err := NewWriter(disk, testInterfaces(), "")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; n < 1000 && err == nil; n++ {
		if err = w.Write(Packet{Data: frame(100), Len: 142}); err == nil {
			err = w.Flush()
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d packets: %v, want no space", n, err)
	}
	if got := len(blocks(t, disk.Bytes()[:w.Whole()])); got != n-1+3 {
		t.Errorf("%d blocks up to Whole, want %d", got, n-1+3)
	}
}
