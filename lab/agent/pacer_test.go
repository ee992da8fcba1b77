package agent

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPacer(t *testing.T) {
	t.Parallel()
	t.Run("a small lab's start takes leases in flocks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var p pacer
			expect(t, &p, "the first", 1, many-1, 0)
			p.set()
			expect(t, &p, "one of many", 2, many-1, (many-1)*perHost)
			expect(t, &p, "the last", many-1, many-1, 0)
			p.set()
			expect(t, &p, "one that leaves later", many-2, many-1, 0)
		})
	})
	t.Run("a big lab's start takes them at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var p pacer
			for n := range 99 {
				expect(t, &p, "one of a hundred", n+1, 100, stalled(100))
				time.Sleep(stalled(100) / 2)
			}
			expect(t, &p, "the last of a hundred", 100, 100, 0)
			p.set()
			expect(t, &p, "one that leaves later", 99, 100, 0)
		})
	})
	t.Run("a big lab's start that does not get on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var p pacer
			expect(t, &p, "half of a thousand", 500, 1000, stalled(1000))
			time.Sleep(stalled(1000) / 2)
			if got := p.gather(500, 1000); got != stalled(1000)/2 {
				t.Errorf("gather after half of it = %v, want the other half", got)
			}
			time.Sleep(stalled(1000) / 2)
			expect(t, &p, "no more came", 500, 1000, 0)
			p.set()
			expect(t, &p, "one after all", 501, 1000, most)
			expect(t, &p, "all after all", 1000, 1000, 0)
		})
	})
	t.Run("an agent that starts again waits for nobody", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pacer{flock: flock{over: true}}
			expect(t, &p, "half of a thousand", 500, 1000, 0)
		})
	})
	t.Run("a lone change never waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var p pacer
			for range 20 {
				expect(t, &p, "a lone change", 50, 0, 0)
				p.set()
				time.Sleep(2 * apart)
			}
		})
	})
	t.Run("a flock waits, less in a small network", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var p pacer
			for range freeSets {
				expect(t, &p, "one of the first", 10, 0, 0)
				p.set()
			}
			expect(t, &p, "one more of ten", 10, 0, 10*perLease)
			expect(t, &p, "one more of very many", 100000, 0, most)
		})
	})
}

func expect(t *testing.T, p *pacer, what string, leases, hosts int, want time.Duration) {
	t.Helper()
	if got := p.wait(leases, hosts); got != want {
		t.Errorf("wait for %s = %v, want %v", what, got, want)
	}
}

func TestBetweenLists(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		leases, hosts int
		want          time.Duration
	}{
		{"a small lab", 1, many - 1, 0},
		{"nobody knows how many", 1, 0, 0},
		{"few of very many", 10, 500, mostBetween},
		{"half", 50, 100, 50 * perMissing},
		{"nearly all", 95, 100, 0},
		{"all", 100, 100, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var f flock
			if got := f.between(test.leases, test.hosts); got != test.want {
				t.Errorf("between(%d, %d) = %v, want %v", test.leases, test.hosts, got, test.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		var f flock
		f.between(50, 100)
		time.Sleep(stalled(100))
		if got := f.between(50, 100); got != 0 {
			t.Errorf("between when no more come = %v, want the watch", got)
		}
		if got := f.between(51, 100); got != 0 {
			t.Errorf("between after the watch began = %v, want it to go on", got)
		}
	})
}
