package main

import (
	"bytes"
	"image"
	"image/color"
	_ "image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"labctl/lab/bench"
)

// A browser shows the page with its charts, light and dark, and complains about
// nothing.
func TestBenchPageInABrowser(t *testing.T) {
	t.Parallel()
	needTool(t, "chromium")
	r, err := readBench("testdata/bench.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	page := filepath.Join(dir, "page.html")
	if err := os.WriteFile(page, []byte(bench.HTML(r, bench.Analyse(r))), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name              string
		flags             []string
		paper, contestant color.RGBA // as in the page's style
	}{
		{"light", nil, color.RGBA{0xff, 0xff, 0xff, 0xff}, color.RGBA{0x2f, 0x6f, 0xb3, 0xff}},
		{"dark", []string{"--force-dark-mode"}, color.RGBA{0x14, 0x18, 0x1d, 0xff}, color.RGBA{0x5b, 0x9b, 0xdf, 0xff}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			shot := filepath.Join(dir, tt.name+".png")
			cmd := exec.Command("chromium", append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
				"--user-data-dir=" + filepath.Join(dir, tt.name), "--window-size=1000,1200", "--screenshot=" + shot}, append(tt.flags, "file://"+page)...)...)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("chromium: %v\n%s", err, out)
			}
			for l := range strings.Lines(string(out)) {
				if strings.Contains(l, "CONSOLE") {
					t.Errorf("the page complains: %s", l)
				}
			}
			b, err := os.ReadFile(shot)
			if err != nil {
				t.Fatal(err)
			}
			img, _, err := image.Decode(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(img.At(x, y)).(color.RGBA) }
			if got := at(2, 2); got != tt.paper {
				t.Errorf("the paper is %v, want %v", got, tt.paper)
			}
			filled := 0
			for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
				for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
					if at(x, y) == tt.contestant {
						filled++
					}
				}
			}
			if filled < 5000 {
				t.Errorf("%d points of the contestants' bars, want thousands", filled)
			}
		})
	}
}
