"""Merkle trees against RFC 6962: published vectors, and every proof for every small size."""

import hashlib
from collections.abc import Sequence

import pytest

from audit.errors import ProofInvalid
from audit.merkle import (
    EMPTY_ROOT,
    TILE_WIDTH,
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

# The test vectors of Certificate Transparency's own implementation (merkletree, "kSHA256Roots" and its proofs).
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [leaf_hash(bytes.fromhex(leaf)) for leaf in LEAVES]
SIZES = [*range(1, 65), 127, 128, 129, 255, 256, 257]
MANY = [leaf_hash(number.to_bytes(2, "big")) for number in range(257)]
MANY_ROOTS = [root(MANY[:size]) for size in range(258)]


def recursive_root(hashes: Sequence[bytes]) -> bytes:
    """MTH as RFC 6962, section 2.1, writes it."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node_hash(recursive_root(hashes[:split]), recursive_root(hashes[split:]))


def test_published_roots() -> None:
    """The roots of the first 0 to 8 leaves, by both ways of computing them."""
    assert root([]) == EMPTY_ROOT == hashlib.sha256(b"").digest() == Tree().root()
    tree = Tree()
    for count in range(1, 9):
        tree.append(HASHES[count - 1])
        assert root(HASHES[:count]).hex() == ROOTS[count - 1]
        assert tree.root().hex() == ROOTS[count - 1]


def test_published_inclusion_proofs() -> None:
    """PATH(5, D[8]) and PATH(2, D[3])."""
    proof = inclusion_proof(5, HASHES)
    assert [value.hex() for value in proof] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        ROOTS[3],
    ]
    assert [value.hex() for value in inclusion_proof(2, HASHES[:3])] == [ROOTS[1]]
    verify_inclusion(HASHES[5], 5, 8, proof, bytes.fromhex(ROOTS[7]))


def test_published_consistency_proofs() -> None:
    """PROOF(6, D[8]), PROOF(2, D[5]) and PROOF(1, D[1])."""
    assert [value.hex() for value in consistency_proof(6, HASHES)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        ROOTS[3],
    ]
    assert [value.hex() for value in consistency_proof(2, HASHES[:5])] == [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]
    assert consistency_proof(1, HASHES[:1]) == ()


def test_root_is_the_recursive_definition() -> None:
    """Level by level and by tiles gives the RFC's recursion, for all sizes to 257."""
    tree = Tree()
    for size in range(1, 258):
        tree.append(MANY[size - 1])
        assert MANY_ROOTS[size] == recursive_root(MANY[:size]) == tree.root()


def test_every_inclusion_proof() -> None:
    """For all m < n: the proof proves, and not another leaf, index, size or root, nor when cut or lengthened."""
    for size in SIZES:
        for index in range(size) if size <= 64 else range(0, size, 17):
            proof = inclusion_proof(index, MANY[:size])
            verify_inclusion(MANY[index], index, size, proof, MANY_ROOTS[size])
            wrong = [
                (MANY[index - 1], index, proof, MANY_ROOTS[size]) if size > 1 else (leaf_hash(b""), 0, proof, MANY[0]),
                (MANY[index], index, proof, MANY_ROOTS[size - 1]),
                (MANY[index], index, (*proof, MANY[0]), MANY_ROOTS[size]),
                (MANY[index], size, proof, MANY_ROOTS[size]),
                (MANY[index], -1, proof, MANY_ROOTS[size]),
            ]
            if proof:
                wrong += [
                    (MANY[index], index, proof[:-1], MANY_ROOTS[size]),
                    (MANY[index], index ^ 1, proof, MANY_ROOTS[size]),
                    (MANY[index], index, (proof[0][:31], *proof[1:]), MANY_ROOTS[size]),
                ]
            for leaf, at, path, expected in wrong:
                with pytest.raises(ProofInvalid):
                    verify_inclusion(leaf, at, size, path, expected)


def test_every_consistency_proof() -> None:
    """For all 0 < m <= n: the proof proves, and not other roots or sizes, nor when cut, lengthened or changed."""
    for size in SIZES:
        for old in range(1, size + 1) if size <= 64 else range(1, size + 1, 13):
            proof = consistency_proof(old, MANY[:size])
            verify_consistency(old, size, proof, MANY_ROOTS[old], MANY_ROOTS[size])
            wrong = [
                (old, (*proof, MANY[0]), MANY_ROOTS[old], MANY_ROOTS[size]),
                (old, proof, MANY_ROOTS[old - 1], MANY_ROOTS[size]),
                (old, proof, MANY_ROOTS[old], MANY_ROOTS[size - 1]),
                (0, proof, EMPTY_ROOT, MANY_ROOTS[size]),
                (size + 1, proof, MANY_ROOTS[old], MANY_ROOTS[size]),
            ]
            if proof:
                wrong += [
                    (old, proof[:-1], MANY_ROOTS[old], MANY_ROOTS[size]),
                    (old, (), MANY_ROOTS[old], MANY_ROOTS[size]),
                    (old, (leaf_hash(proof[0]), *proof[1:]), MANY_ROOTS[old], MANY_ROOTS[size]),
                ]
            for before, path, old_root, new_root in wrong:
                with pytest.raises(ProofInvalid):
                    verify_consistency(before, size, path, old_root, new_root)


@pytest.mark.slow
def test_both_proofs_for_all_sizes_to_257() -> None:
    """For all 0 < m <= n <= 257, leaving nothing out: both proofs prove, and neither when it is cut or lengthened."""
    for size in range(1, 258):
        for old in range(1, size + 1):
            leaf, inclusion = MANY[old - 1], inclusion_proof(old - 1, MANY[:size])
            consistency = consistency_proof(old, MANY[:size])
            verify_inclusion(leaf, old - 1, size, inclusion, MANY_ROOTS[size])
            verify_consistency(old, size, consistency, MANY_ROOTS[old], MANY_ROOTS[size])
            for path in ((*inclusion, MANY[0]), inclusion[:-1] if inclusion else (MANY[0], MANY[0])):
                with pytest.raises(ProofInvalid):
                    verify_inclusion(leaf, old - 1, size, path, MANY_ROOTS[size])
            for path in ((*consistency, MANY[0]), consistency[:-1] if consistency else (MANY[0], MANY[0])):
                with pytest.raises(ProofInvalid):
                    verify_consistency(old, size, path, MANY_ROOTS[old], MANY_ROOTS[size])


def test_an_empty_proof_is_not_a_tree_of_one_leaf() -> None:
    """The degenerate proof: a leaf as root of a larger tree."""
    with pytest.raises(ProofInvalid):
        verify_inclusion(MANY[0], 0, 2, (), MANY[0])


def test_no_proof_of_what_is_not_there() -> None:
    """Indices and sizes beyond the tree are refused when proving, too."""
    for index in (-1, 8):
        with pytest.raises(ProofInvalid):
            inclusion_proof(index, HASHES)
    for size in (0, 9):
        with pytest.raises(ProofInvalid):
            consistency_proof(size, HASHES)


def test_tree_keeps_the_tiles() -> None:
    """Tiles of the levels above are roots of full tiles below; a copy grows alone."""
    tree = Tree()
    full: list[tuple[bytes, ...]] = []
    hashes = [leaf_hash(number.to_bytes(3, "big")) for number in range(3 * TILE_WIDTH + 5)]
    for value in hashes:
        done = tree.append(value)
        if done:
            full.append(done)
    assert [root(tile) for tile in full] == [tree.full_tile_root(index) for index in range(3)]
    assert tree.tile(1, 0, 3) == b"".join(root(tile) for tile in full)
    assert tree.tile(0, 3, 5) == b"".join(hashes[-5:])
    assert tree.leaves() == tuple(hashes[-5:])
    assert tree.root() == root(hashes)
    for level, index, width in ((0, 2, 256), (0, 3, 6), (1, 0, 4), (1, 1, 1), (2, 0, 1)):
        with pytest.raises(IndexError):
            tree.tile(level, index, width)
    copy = tree.copy()
    copy.append(hashes[0])
    assert (tree.size, copy.size) == (len(hashes), len(hashes) + 1)
    assert tree.root() == root(hashes) != copy.root()


def test_tree_of_three_levels() -> None:
    """65,536 leaves and one make a hash at level 2."""
    tree = Tree()
    for _ in range(TILE_WIDTH * TILE_WIDTH):
        tree.append(HASHES[0])
    assert len(tree.tile(2, 0, 1)) == 32
    assert tree.tile(2, 0, 1) == tree.root()
    tree.append(HASHES[1])
    assert tree.root() == node_hash(tree.tile(2, 0, 1), HASHES[1])


def test_the_root_at_an_earlier_size() -> None:
    """Of every size around the ends of tiles on three levels, as the plain definition has it."""
    leaves = [number.to_bytes(3, "big") for number in range(66_200)]
    hashes = [leaf_hash(leaf) for leaf in leaves]
    tree = Tree()
    for leaf in hashes:
        tree.append(leaf)
    for size in (*range(1, 260), *range(510, 515), 65_279, 65_280, 65_281, *range(65_530, 65_545), 66_048, 66_200):
        first = (size - 1) // TILE_WIDTH * TILE_WIDTH
        assert tree.root_at(size, leaves[first : first + TILE_WIDTH]) == root(hashes[:size]), size
