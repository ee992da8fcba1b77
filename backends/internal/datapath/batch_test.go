package datapath

import "testing"

// Datagrams of one length for one host are one message, of which only the last
// may be shorter.
func TestBatches(t *testing.T) {
	type datagram struct {
		to addr
		n  int
	}
	many := func(n int, d datagram) (all []datagram) {
		for range n {
			all = append(all, d)
		}
		return all
	}
	tests := []struct {
		name    string
		segment bool
		in      []datagram
		counts  []int
		fit     int
	}{
		{"one flow", true, append(many(3, datagram{1, 1472}), datagram{1, 60}), []int{4}, 4},
		{"after a short one", true, []datagram{{1, 1472}, {1, 60}, {1, 60}}, []int{2, 1}, 3},
		{"a longer one", true, []datagram{{1, 60}, {1, 1472}, {1, 1472}}, []int{1, 2}, 3},
		{"two hosts", true, []datagram{{1, 100}, {2, 100}, {2, 100}, {1, 100}}, []int{1, 2, 1}, 4},
		{"without segmentation", false, many(3, datagram{1, 100}), []int{1, 1, 1}, 3},
		{"as much as the kernel cuts", true, many(65, datagram{1, 92}), []int{64, 1}, 65},
		{"as much as UDP carries", true, many(45, datagram{1, 1472}), []int{44}, 44},
		{"as many messages as there are", false, many(65, datagram{1, 92}), many1(64), 64},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBatches(8285, tt.segment)
			fit := 0
			for _, d := range tt.in {
				dst := b.room(d.to, d.n)
				if dst == nil {
					break
				}
				if len(dst) != d.n {
					t.Fatalf("room for %d bytes, want %d", len(dst), d.n)
				}
				fit++
			}
			var counts []int
			for i := range b.messages() {
				p := b.parts[i]
				counts = append(counts, p.count)
				if p.count > maxSegments || p.end-p.start > maxPayload || (b.msgs[i].Controllen > 0) != (p.count > 1) || b.names[i].addr() != p.to {
					t.Errorf("message %d = %+v", i, p)
				}
			}
			if fit != tt.fit || len(counts) != len(tt.counts) {
				t.Fatalf("%d fit in messages of %v, want %d in %v", fit, counts, tt.fit, tt.counts)
			}
			for i := range counts {
				if counts[i] != tt.counts[i] {
					t.Errorf("messages of %v, want %v", counts, tt.counts)
				}
			}
			if b.clear(); b.room(1, 1472) == nil {
				t.Error("no room after clear")
			}
		})
	}
}

func many1(n int) (ones []int) {
	for range n {
		ones = append(ones, 1)
	}
	return ones
}
