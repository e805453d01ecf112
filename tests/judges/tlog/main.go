// A judge that shares no line with the project: it reads our logs and packages with the Go module proxy's own code
// for signed notes, tiles and proofs (golang.org/x/mod/sumdb).
//
// Standard input: one question a line, of words that tabs part:
//
//	log      DIRECTORY  ORIGIN  OLDER  VKEY...    a log's directory (C2SP tlog-tiles); OLDER: a directory of older
//	                                              checkpoints, or "-"
//	package  FILE       ORIGIN  -      VKEY...    an audit package; checkpoints/ in it are the older ones
//
// The first key is the log's, others are witnesses' (C2SP cosignature/v1), each of which must be right where it is.
// Standard output: one answer a line: "ok SIZE ROOT CHECKPOINTS" or "bad REASON".
package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight  = 8
	bundleWidth = 1 << tileHeight
	chunkWidth  = 1024
)

// witness is a key of type 0x04: it signs the text after a line with its time. x/mod knows keys of type 0x01 only.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (w witness) Name() string    { return w.name }
func (w witness) KeyHash() uint32 { return w.hash }
func (w witness) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	time := binary.BigEndian.Uint64(signature)
	message := append([]byte(fmt.Sprintf("cosignature/v1\ntime %d\n", time)), text...)
	return ed25519.Verify(w.key, message, signature[8:])
}

func parseWitness(vkey string) (note.Verifier, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("witness key: not three parts")
	}
	material, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(material) != 1+ed25519.PublicKeySize || material[0] != 4 {
		return nil, errors.New("witness key: not of type 4")
	}
	digest := sha256.Sum256(append([]byte(parts[0]+"\n"), material...))
	return witness{parts[0], binary.BigEndian.Uint32(digest[:4]), material[1:]}, nil
}

// checkpoint opens a signed tree head: the log's key must have signed, and every known key that is there.
func checkpoint(data []byte, origin string, keys []note.Verifier) (tlog.Tree, error) {
	var tree tlog.Tree
	opened, err := note.Open(data, note.VerifierList(keys...))
	if err != nil {
		return tree, err
	}
	byLog := false
	for _, signature := range append(opened.Sigs, opened.UnverifiedSigs...) {
		if _, err := base64.StdEncoding.Strict().DecodeString(signature.Base64); err != nil {
			return tree, err
		}
	}
	for _, signature := range opened.Sigs {
		byLog = byLog || (signature.Name == keys[0].Name() && signature.Hash == keys[0].KeyHash())
	}
	lines := strings.Split(opened.Text, "\n")
	if !byLog || len(lines) != 4 || lines[0] != origin || lines[3] != "" {
		return tree, errors.New("not a checkpoint of this log by its key")
	}
	tree.N, err = strconv.ParseInt(lines[1], 10, 64)
	if err != nil || tree.N < 0 || strconv.FormatInt(tree.N, 10) != lines[1] {
		return tree, errors.New("size is no number")
	}
	if _, err := base64.StdEncoding.Strict().DecodeString(lines[2]); err != nil {
		return tree, err
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, err
}

// hashes holds every stored hash of the tree that the entries make, in x/mod's order.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for at, index := range indexes {
		if index >= int64(len(h)) {
			return nil, fmt.Errorf("hash %d of %d", index, len(h))
		}
		found[at] = h[index]
	}
	return found, nil
}

func (h *hashes) add(n int64, record tlog.Hash) error {
	more, err := tlog.StoredHashesForRecordHash(n, record, *h)
	*h = append(*h, more...)
	return err
}

// entries splits a bundle of so many entries; where a length may be 0, the entry's hash follows in its stead.
func entries(data []byte, count int64, hidden bool) ([]tlog.Hash, error) {
	var found []tlog.Hash
	for ; count > 0; count-- {
		if len(data) < 2 {
			return nil, errors.New("bundle: fewer entries")
		}
		length := int(binary.BigEndian.Uint16(data))
		data = data[2:]
		if length == 0 && hidden {
			var leaf tlog.Hash
			if len(data) < len(leaf) {
				return nil, errors.New("bundle: cut short in a hash")
			}
			copy(leaf[:], data)
			found, data = append(found, leaf), data[len(leaf):]
			continue
		}
		if len(data) < length {
			return nil, errors.New("bundle: cut short")
		}
		found, data = append(found, tlog.RecordHash(data[:length])), data[length:]
	}
	if len(data) > 0 {
		return nil, errors.New("bundle: more than its entries")
	}
	return found, nil
}

// files reads tiles from a directory under their C2SP names: those of x/mod without the height.
type files struct{ root string }

func (f files) read(tile tlog.Tile) ([]byte, error) {
	name := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
	return os.ReadFile(filepath.Join(f.root, strings.Replace(name, "tile/data/", "tile/entries/", 1)))
}

func (f files) Height() int { return tileHeight }
func (f files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(tiles))
	for at, tile := range tiles {
		data, err := f.read(tile)
		if err != nil {
			return nil, err
		}
		found[at] = data
	}
	return found, nil
}
func (f files) SaveTiles([]tlog.Tile, [][]byte) {}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

// agree compares the entries' tree with the signed one, and every older signed one with both.
func agree(tree tlog.Tree, stored hashes, older [][]byte, origin string, keys []note.Verifier) error {
	root, err := tlog.TreeHash(tree.N, stored)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		return errors.New("the entries make another root")
	}
	for _, data := range older {
		before, err := checkpoint(data, origin, keys)
		if err != nil {
			return err
		}
		if before.N < 1 || before.N >= tree.N {
			return errors.New("an older checkpoint is not older")
		}
		proof, err := tlog.ProveTree(tree.N, before.N, stored)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, before.N, before.Hash); err != nil {
			return err
		}
	}
	return nil
}

func judgeLog(root, origin, olderIn string, keys []note.Verifier) (tlog.Tree, int, error) {
	var tree tlog.Tree
	data, err := os.ReadFile(filepath.Join(root, "checkpoint"))
	if err != nil {
		return tree, 0, err
	}
	if tree, err = checkpoint(data, origin, keys); err != nil {
		return tree, 0, err
	}
	disk, stored, leaves := files{root}, hashes{}, []tlog.Hash{}
	for first := int64(0); first < tree.N; first += bundleWidth {
		width := min(bundleWidth, tree.N-first)
		bundle, err := disk.read(tlog.Tile{H: tileHeight, L: -1, N: first / bundleWidth, W: int(width)})
		if err != nil {
			return tree, 0, err
		}
		found, err := entries(bundle, width, false)
		if err != nil {
			return tree, 0, err
		}
		for at, leaf := range found {
			if err := stored.add(first+int64(at), leaf); err != nil {
				return tree, 0, err
			}
		}
		leaves = append(leaves, found...)
	}
	var older [][]byte
	if olderIn != "-" {
		names, err := filepath.Glob(filepath.Join(olderIn, "*"))
		if err != nil {
			return tree, 0, err
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				return tree, 0, err
			}
			older = append(older, data)
		}
	}
	if err := agree(tree, stored, older, origin, keys); err != nil {
		return tree, 0, err
	}
	tiles := tlog.NewTiles(tileHeight, 0, tree.N)
	for at, tile := range tiles {
		// Of a partial tile x/mod names every width that there ever was; the newest is the last.
		if at+1 < len(tiles) && tiles[at+1].L == tile.L && tiles[at+1].N == tile.N {
			continue
		}
		published, err := disk.read(tile)
		if err != nil {
			return tree, 0, err
		}
		if wanted, err := tlog.ReadTileData(tile, stored); err != nil || !bytes.Equal(published, wanted) {
			return tree, 0, fmt.Errorf("%s differs", tile.Path())
		}
	}
	// As a client does: from tiles alone, believing only the checkpoint.
	reader := tlog.TileHashReader(tree, disk)
	step := tree.N/64 + 1
	for n := int64(0); n < tree.N; n += step {
		proof, err := tlog.ProveRecord(tree.N, n, reader)
		if err != nil {
			return tree, 0, err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, n, leaves[n]); err != nil {
			return tree, 0, err
		}
	}
	return tree, len(older), nil
}

func judgePackage(file, origin string, keys []note.Verifier) (tlog.Tree, int, error) {
	var tree tlog.Tree
	archive, err := zip.OpenReader(file)
	if err != nil {
		return tree, 0, err
	}
	defer archive.Close()
	members, names := map[string][]byte{}, []string{}
	for _, member := range archive.File {
		stream, err := member.Open()
		if err != nil {
			return tree, 0, err
		}
		data, err := io.ReadAll(stream)
		if err != nil {
			return tree, 0, err
		}
		members[member.Name], names = data, append(names, member.Name)
	}
	sort.Strings(names)
	if tree, err = checkpoint(members["checkpoint"], origin, keys); err != nil {
		return tree, 0, err
	}
	var stored hashes
	var older [][]byte
	chunks := int64(0)
	for _, name := range names {
		if strings.HasPrefix(name, "checkpoints/") {
			older = append(older, members[name])
		}
		if strings.HasPrefix(name, "entries/") {
			chunks++
		}
	}
	for first := int64(0); first < tree.N; first += chunkWidth {
		found, err := entries(members[fmt.Sprintf("entries/%013d", first)], min(chunkWidth, tree.N-first), true)
		if err != nil {
			return tree, 0, err
		}
		for at, leaf := range found {
			if err := stored.add(first+int64(at), leaf); err != nil {
				return tree, 0, err
			}
		}
	}
	if chunks != (tree.N+chunkWidth-1)/chunkWidth {
		return tree, 0, errors.New("entries that no checkpoint has")
	}
	return tree, len(older), agree(tree, stored, older, origin, keys)
}

func answer(words []string) (tlog.Tree, int, error) {
	if len(words) < 5 {
		return tlog.Tree{}, 0, errors.New("a question is KIND PLACE ORIGIN OLDER VKEY...")
	}
	first, err := note.NewVerifier(words[4])
	if err != nil {
		return tlog.Tree{}, 0, err
	}
	keys := []note.Verifier{first}
	for _, vkey := range words[5:] {
		key, err := parseWitness(vkey)
		if err != nil {
			return tlog.Tree{}, 0, err
		}
		keys = append(keys, key)
	}
	switch words[0] {
	case "log":
		return judgeLog(words[1], words[2], words[3], keys)
	case "package":
		return judgePackage(words[1], words[2], keys)
	}
	return tlog.Tree{}, 0, errors.New("log or package wanted")
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		tree, older, err := answer(strings.Split(lines.Text(), "\t"))
		if err != nil {
			fmt.Printf("bad %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Printf("ok %d %s %d\n", tree.N, tree.Hash, older)
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
