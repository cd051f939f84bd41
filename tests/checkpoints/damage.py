"""Damage to a file's bytes, drawn from a generator."""

import struct

EDGES = (0, 1, 2, 3, 7, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62)
EDGES += (2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)


def flip(content, random):
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        place = random.randrange(len(content))
        content[place] ^= (
            1 << random.randrange(8) if random.random() < 0.5 else random.randrange(256)
        )


def truncate(content, random):
    del content[random.randrange(len(content)) :]


def splice(content, random):
    """A piece of the file once more, elsewhere: put in, or over what was there."""
    start, place = random.randrange(len(content)), random.randrange(len(content))
    piece = content[start : start + random.choice((1, 3, 17, 101))]
    content[place : place + random.choice((0, len(piece), 1, 29))] = piece


def cut(content, random):
    start = random.randrange(len(content))
    del content[start : start + random.choice((1, 2, 8, 47))]


def lie(content, random):
    """A length, size or offset of one to eight bytes that is another number."""
    form = random.choice("BHIQ")
    number = random.choice(EDGES) % 256 ** struct.calcsize(form)
    place = random.randrange(max(1, len(content) - 8))
    struct.pack_into(f"<{form}", content, min(place, len(content) - 8), number)


MUTATIONS = (flip, flip, truncate, splice, cut, lie, lie)


def mutated(content, random):
    content = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if len(content) > 8:
            random.choice(MUTATIONS)(content, random)
    return bytes(content)
