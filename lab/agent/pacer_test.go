package agent

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPacer(t *testing.T) {
	t.Parallel()
	t.Run("a lab's start takes leases in flocks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var p pacer
			expect(t, &p, "the first", 1, 100, 0)
			p.set()
			expect(t, &p, "one of a hundred", 2, 100, most)
			expect(t, &p, "the last of a hundred", 100, 100, 0)
			p.set()
			expect(t, &p, "one that leaves later", 99, 100, 0)
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
