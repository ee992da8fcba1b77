package docker

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Gateway is where the main table of a process' network namespace sends
// packets to exactly this subnet, by which device; the zero Addr when it has no
// such route. A host's own subnet must not have one: its bridge would not get
// the packets.
func Gateway(pid int, subnet netip.Prefix) (via netip.Addr, dev string, err error) {
	path := "/proc/" + strconv.Itoa(pid) + "/net/route"
	text, err := os.ReadFile(path)
	if err != nil {
		return netip.Addr{}, "", err
	}
	via, dev, err = gateway(string(text), subnet)
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("%s: %w", path, err)
	}
	return via, dev, nil
}

// gateway reads the table: device, destination, gateway, ..., the mask as the
// eighth column.
func gateway(table string, subnet netip.Prefix) (netip.Addr, string, error) {
	first := true
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if first || len(f) < 8 {
			first = false
			continue
		}
		var at [3]netip.Addr
		for i, column := range []int{1, 2, 7} {
			var err error
			if at[i], err = hexAddr(f[column]); err != nil {
				return netip.Addr{}, "", err
			}
		}
		dst, via, mask := at[0], at[1], at[2].As4()
		if netip.PrefixFrom(dst, bits.OnesCount32(binary.BigEndian.Uint32(mask[:]))) == subnet && !via.IsUnspecified() {
			return via, f[0], nil
		}
	}
	return netip.Addr{}, "", nil
}

// hexAddr reads an address as the kernel prints it: a number in the machine's
// byte order.
func hexAddr(s string) (netip.Addr, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 {
		return netip.Addr{}, fmt.Errorf("%q: no address", s)
	}
	var a [4]byte
	binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
	return netip.AddrFrom4(a), nil
}
