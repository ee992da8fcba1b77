package lab_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tree is every Go file of the module, read once.
type tree struct {
	fset  *token.FileSet
	files []goFile
}

type goFile struct {
	name string // from the module's root
	text []byte
	ast  *ast.File
}

// dir is the package's folder from the module's root.
func (f goFile) dir() string { return path.Dir(f.name) }

func (f goFile) test() bool { return strings.HasSuffix(f.name, "_test.go") }

// imports are the import paths with the names they have in the file.
func (f goFile) imports() map[string]string {
	found := map[string]string{}
	for _, i := range f.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			panic(err) // the parser has read it
		}
		found[p] = path.Base(p)
		if i.Name != nil {
			found[p] = i.Name.Name
		}
	}
	return found
}

func readTree(t *testing.T) tree {
	t.Helper()
	tr := tree{fset: token.NewFileSet()}
	root := ".."
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); p != root && (strings.HasPrefix(n, ".") || n == "testdata" || n == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(p) != ".go" {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(tr.fset, rel, text, parser.ParseComments)
		if err != nil {
			return err
		}
		tr.files = append(tr.files, goFile{filepath.ToSlash(rel), text, f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.files) < 50 {
		t.Fatalf("%d Go files found, want all of the module's", len(tr.files))
	}
	return tr
}

// under says whether a folder is one of the trees.
func under(dir string, trees ...string) bool {
	return slices.ContainsFunc(trees, func(t string) bool { return dir == t || strings.HasPrefix(dir, t+"/") })
}

// Imports go one way: cmd -> lab -> {backends, nodes, labs}, backends -> nodes.
func TestImportsGoOneWay(t *testing.T) {
	t.Parallel()
	rules := []struct {
		name   string
		in     []string // the folders that the rule is for
		must   func(dir, imported string) bool
		reason string
	}{
		{"nodes", []string{"nodes"}, func(_, p string) bool { return under(p, "nodes") },
			"nodes is about one kernel: what a lab, a lease or a backend is, it must not know"},
		{"backends", []string{"backends"}, func(_, p string) bool { return under(p, "backends", "nodes") },
			"a backend is a function from leases to kernel state: it works without a lab (labctl agent on a real machine)"},
		{"labs", []string{"labs"}, func(_, p string) bool { return under(p, "labs") },
			"the built-in labs are data; package lab parses them"},
		{"lab", []string{"lab"}, func(_, p string) bool { return under(p, "lab", "backends", "nodes", "labs") },
			"a lab is used by the commands and knows none of them"},
		{"cmd", []string{"cmd"}, func(_, p string) bool { return under(p, "lab", "labs") || p == "backends" },
			"commands parse, call and print: namespaces and kinds of backends are for package lab"},
		{"scripts", []string{"scripts"}, func(string, string) bool { return false },
			"scripts use the binary as people do"},
		{"one backend", []string{"backends"}, func(dir, p string) bool {
			kind := func(d string) string {
				parts := strings.Split(d, "/")
				if len(parts) < 2 || parts[0] != "backends" || parts[1] == "catalogue" || parts[1] == "backendtest" || parts[1] == "internal" {
					return ""
				}
				return parts[1]
			}
			return under(dir, "backends/catalogue") || kind(p) == "" || kind(p) == kind(dir)
		}, "backends do not know each other: only the catalogue lists them"},
		{"a lab's kinds", []string{"lab"}, func(_, p string) bool {
			// Calico is no backend of flannel's: it is the other contract with the
			// store. BGP is none, either: a way to learn routes.
			return !under(p, "backends") || p == "backends" || p == "backends/catalogue" || p == "backends/calico" || p == "backends/bgp"
		}, "backends are asked for by name, in the catalogue, so that one more changes nothing here"},
	}
	tr := readTree(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, f := range tr.files {
				if f.test() || !under(f.dir(), r.in...) {
					continue
				}
				for p := range f.imports() {
					if own, ok := strings.CutPrefix(p, "labctl/"); ok && !r.must(f.dir(), own) {
						t.Errorf("%s imports %s: %s", f.name, p, r.reason)
					}
				}
			}
		})
	}
}

// Some modules belong to one folder.
func TestWhoImportsWhat(t *testing.T) {
	t.Parallel()
	rules := []struct {
		module string
		only   []string
		reason string
	}{
		{"github.com/spf13/cobra", []string{"cmd"}, "packages return values and errors; only commands know of flags"},
		{"github.com/olekukonko/tablewriter", []string{"cmd"}, "packages return values; only commands print tables"},
		{"github.com/vishvananda/netlink", []string{"nodes"}, "one package changes the kernel's network, in the namespace that it was told"},
		{"github.com/vishvananda/netns", []string{"nodes"}, "one package knows of network namespaces"},
		{"github.com/google/nftables", []string{"nodes"}, "one package changes the kernel's network, in the namespace that it was told"},
		{"go.etcd.io/etcd/server/v3", []string{"lab/etcd"}, "the server is 15 MB of code for one process; others speak to it"},
		{"go.yaml.in/yaml/v4", []string{"lab", "cmd"}, "kernel code never reads YAML: it is given a plan"},
		{"github.com/stretchr/testify", nil, "tests use the standard library and go-cmp"},
	}
	for _, f := range readTree(t).files {
		for p := range f.imports() {
			for _, r := range rules {
				// Oracles and generators in tests may come from anywhere, testify not.
				if f.test() && r.only != nil {
					continue
				}
				if under(p, r.module) && !under(f.dir(), r.only...) {
					t.Errorf("%s imports %s, which is for %v: %s", f.name, p, r.only, r.reason)
				}
			}
		}
	}
}

// One file moves threads between network namespaces, and no call can reach the
// namespace that a thread happens to be in.
func TestNamespacesAreEnteredInOnePlace(t *testing.T) {
	t.Parallel()
	const entering = "nodes/namespace.go"
	// Its threads end: they need no way back.
	const viewing = "nodes/view.go"
	// Processes are born in new namespaces by clone(2), which moves no thread.
	cloning := []string{"lab/namespaces.go", "nodes/nodestest/nodestest.go"}
	// Of package netlink only what touches no kernel, or asks for a handle on a
	// namespace that was named.
	harmless := []string{"NewHandle", "NewHandleAt", "NewVeth", "NewLinkAttrs", "NeighDeserialize", "NewBridge", "NewNetem"}
	// Types that are converted to look like calls.
	types := []string{"RouteProtocol", "NsFd", "NsPid", "Scope"}
	tr := readTree(t)
	for _, f := range tr.files {
		if f.test() {
			continue
		}
		imports := f.imports()
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if !ok {
					return true
				}
				where := tr.fset.Position(n.Pos())
				isFrom := func(p string) bool { return imports[p] == x.Name }
				switch {
				case (isFrom("golang.org/x/sys/unix") || isFrom("syscall")) && (n.Sel.Name == "Setns" || n.Sel.Name == "Unshare") && f.name != entering && f.name != viewing:
					t.Errorf("%s: %s.%s: only %s may change a thread's namespace, as it alone knows how to change it back", where, x.Name, n.Sel.Name, entering)
				case n.Sel.Name == "CLONE_NEWNET" && f.name != entering && !slices.Contains(cloning, f.name):
					t.Errorf("%s: CLONE_NEWNET: network namespaces are made by %s; a lab's first process is cloned by %s", where, entering, cloning[0])
				}
			case *ast.CallExpr:
				s, ok := n.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := s.X.(*ast.Ident)
				if !ok || imports["github.com/vishvananda/netlink"] != x.Name {
					return true
				}
				if !slices.Contains(harmless, s.Sel.Name) && !slices.Contains(types, s.Sel.Name) {
					t.Errorf("%s: netlink.%s acts on the namespace that the thread is in, which may be the machine's; call it on a Handle", tr.fset.Position(n.Pos()), s.Sel.Name)
				}
			}
			return true
		})
	}
}

// What a package does stands in its name and its comment, and nothing happens
// because it was imported.
func TestShapeOfPackages(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, f := range readTree(t).files {
		if f.test() {
			continue
		}
		if f.ast.Doc != nil {
			want := "Package " + f.ast.Name.Name + " "
			if f.ast.Name.Name == "main" {
				want = "Command "
			}
			if text := f.ast.Doc.Text(); !strings.HasPrefix(text, want) {
				t.Errorf("%s: package comment begins %.30q, want %q", f.name, text, want)
			}
		}
		documented[f.dir()] = documented[f.dir()] || f.ast.Doc != nil
		switch n := f.ast.Name.Name; n {
		case "util", "utils", "common", "helpers", "types", "constants", "errors", "pkg", "misc":
			t.Errorf("%s: package %s: a function without a home wants a noun of its own", f.name, n)
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init(): nothing is to happen by being imported", f.name)
			}
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no package comment: what it is, who calls it, the one trap", dir)
		}
	}
}

func TestFilesAreFormatted(t *testing.T) {
	t.Parallel()
	for _, f := range readTree(t).files {
		got, err := format.Source(f.text)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if !bytes.Equal(got, f.text) {
			t.Errorf("%s: not formatted; run gofmt -w %s", f.name, f.name)
		}
	}
}
