from dataclasses import fields, replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.keyring import AesKeyring, key_id_of
from service.core.errors import KeyUnavailable
from service.core.model import SealingKey
from service.core.ports import SealBroken
from service.core.records import Place
from service.core.sealing.resealing import HEAD_BYTES

OLD = SealingKey("2025", b"o" * 32)
NEW = SealingKey("2026", b"n" * 32)
PLACE = Place("grant", "versature", "alice", "refresh_token")
HEADER = b"\x01\x042026"
NONCE_BYTES, TAG_BYTES = 12, 16
FIRST_VERSION = (
    "0104323032369ea8417910069840499459482b341a66932966c15e0cda235808fc3390d2bb534fcdd286dd46dfc0ecc528d7745ec7ae"
)
"""`the refresh token é`, sealed under NEW for PLACE by the first version of this program."""

texts = st.text(st.characters(exclude_categories=[]), max_size=40)
places = st.builds(Place, texts, texts, texts, texts)


@pytest.fixture
def keyring() -> AesKeyring:
    return AesKeyring([NEW, OLD])


# What is sealed opens again, and only there


@given(secret=texts, place=places)
def test_what_is_sealed_opens_in_its_place(secret: str, place: Place) -> None:
    keyring = AesKeyring([NEW])
    assert keyring.open(keyring.seal(secret, place), place) == secret


@given(secret=texts, place=places, other=places)
def test_what_is_sealed_opens_nowhere_else(secret: str, place: Place, other: Place) -> None:
    keyring = AesKeyring([NEW])
    if other == place:
        return
    sealed = keyring.seal(secret, place)
    with pytest.raises(SealBroken):
        keyring.open(sealed, other)


@pytest.mark.parametrize("part", [field.name for field in fields(Place)])
@pytest.mark.parametrize("other", ["", "Alice", "elsewhere"])
def test_every_part_of_the_place_is_bound(keyring: AesKeyring, part: str, other: str) -> None:
    sealed = keyring.seal("secret", PLACE)
    with pytest.raises(SealBroken):
        keyring.open(sealed, replace(PLACE, **{part: other}))


@pytest.mark.parametrize("one", [Place("k", "ab", "c", "f"), Place("k", "a", "bc", "f"), Place("ka", "b", "c", "f")])
@pytest.mark.parametrize("other", [Place("k", "abc", "", "f"), Place("k", "", "abc", "f"), Place("", "k", "abc", "f")])
def test_places_that_read_alike_when_joined_are_not_alike(keyring: AesKeyring, one: Place, other: Place) -> None:
    with pytest.raises(SealBroken):
        keyring.open(keyring.seal("secret", one), other)


@pytest.mark.parametrize(("one", "other"), [("access_token", "refresh_token"), ("refresh_token", "access_token")])
def test_swapped_fields_do_not_open(keyring: AesKeyring, one: str, other: str) -> None:
    sealed = keyring.seal("secret", replace(PLACE, field=one))
    with pytest.raises(SealBroken):
        keyring.open(sealed, replace(PLACE, field=other))


def test_lengths_hidden_in_names_move_no_border(keyring: AesKeyring) -> None:
    honest = Place("k", "a", "b", "c")
    forged = Place("k", "a\x00\x00\x00\x01b", "", "c")
    with pytest.raises(SealBroken):
        keyring.open(keyring.seal("secret", honest), forged)


# The format, which stored values depend on for ever


def test_a_value_sealed_by_the_first_version_still_opens() -> None:
    sealed = bytes.fromhex(FIRST_VERSION)
    assert AesKeyring([NEW]).open(sealed, PLACE) == "the refresh token é"


def test_the_header_names_version_and_key(keyring: AesKeyring) -> None:
    sealed = keyring.seal("secret", PLACE)
    assert sealed.startswith(HEADER)
    assert len(sealed) == len(HEADER) + NONCE_BYTES + len("secret") + TAG_BYTES


def test_a_sealed_value_is_what_its_description_says(keyring: AesKeyring) -> None:
    sealed = keyring.seal("secret", PLACE)
    nonce, rest = sealed[len(HEADER) :][:NONCE_BYTES], sealed[len(HEADER) + NONCE_BYTES :]
    names = (b"grant", b"versature", b"alice", b"refresh_token")
    bound = HEADER + b"".join(len(name).to_bytes(4, "big") + name for name in names)
    assert AESGCMSIV(NEW.material).decrypt(nonce, rest, bound) == b"secret"


def test_a_secret_is_never_sealed_twice_alike(keyring: AesKeyring) -> None:
    sealed = {keyring.seal("secret", PLACE) for _ in range(100)}
    assert len({value[len(HEADER) :][:NONCE_BYTES] for value in sealed}) == 100


def test_a_sealed_value_shows_nothing_of_its_secret(keyring: AesKeyring) -> None:
    assert b"a secret that is long enough" not in keyring.seal("a secret that is long enough", PLACE)


@pytest.mark.parametrize("at", range(len(HEADER)))
def test_the_header_is_bound_as_well(at: int) -> None:
    alike = [SealingKey(name, NEW.material) for name in ("2026", "3026", "2126", "2036", "2027", "202", "20262")]
    keyring = AesKeyring(alike)
    sealed = bytearray(keyring.seal("secret", PLACE))
    sealed[at] ^= 1
    with pytest.raises((SealBroken, KeyUnavailable)):
        keyring.open(bytes(sealed), PLACE)


def test_a_renamed_key_does_not_open_what_it_sealed_under_its_old_name() -> None:
    sealed = AesKeyring([SealingKey("one", NEW.material)]).seal("secret", PLACE)
    both = AesKeyring([SealingKey("one", NEW.material), SealingKey("two", NEW.material)])
    with pytest.raises(SealBroken):
        both.open(sealed.replace(b"one", b"two", 1), PLACE)
    assert both.open(sealed, PLACE) == "secret"


# Which key


def test_the_first_key_seals_and_every_key_opens(keyring: AesKeyring) -> None:
    sealed_before = AesKeyring([OLD]).seal("old secret", PLACE)
    assert keyring.open(sealed_before, PLACE) == "old secret"
    assert keyring.seal("new secret", PLACE).startswith(HEADER)
    assert AesKeyring([NEW]).open(keyring.seal("new secret", PLACE), PLACE) == "new secret"


def test_a_key_that_was_added_last_opens_what_others_already_seal_with_it() -> None:
    assert AesKeyring([OLD, NEW]).open(AesKeyring([NEW, OLD]).seal("secret", PLACE), PLACE) == "secret"
    assert AesKeyring([OLD, NEW]).seal("secret", PLACE).startswith(b"\x01\x042025")


def test_an_unknown_key_is_unavailable_and_listed_as_missing() -> None:
    keyring = AesKeyring([OLD])
    with pytest.raises(KeyUnavailable):
        keyring.open(AesKeyring([NEW]).seal("secret", PLACE), PLACE)
    assert keyring.missing == {"2026"}


@pytest.mark.parametrize("garbled", [b"\xff026", b"2 26", b"20:6", b"2\x0026", b"\xc3\xa926"])
def test_what_no_settings_could_name_is_a_broken_seal_and_no_missing_key(keyring: AesKeyring, garbled: bytes) -> None:
    with pytest.raises(SealBroken):
        keyring.open(keyring.seal("secret", PLACE).replace(b"2026", garbled[:4], 1), PLACE)
    assert keyring.missing == set()


def test_nothing_is_missing_while_every_key_is_there(keyring: AesKeyring) -> None:
    keyring.open(AesKeyring([OLD]).seal("secret", PLACE), PLACE)
    with pytest.raises(SealBroken):
        keyring.open(keyring.seal("secret", PLACE), replace(PLACE, user="bob"))
    with pytest.raises(SealBroken):
        keyring.open(b"", PLACE)
    assert keyring.missing == set()


def test_another_key_of_the_same_name_breaks_the_seal_and_is_not_missing() -> None:
    keyring = AesKeyring([SealingKey("2026", b"x" * 32)])
    with pytest.raises(SealBroken):
        keyring.open(AesKeyring([NEW]).seal("secret", PLACE), PLACE)
    assert keyring.missing == set()


@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_a_key_may_have_any_name(name: str) -> None:
    keyring = AesKeyring([SealingKey(name, NEW.material)])
    assert keyring.open(keyring.seal("secret", PLACE), PLACE) == "secret"


# Which key a sealed value names


def test_a_sealed_value_tells_its_key_without_any_key(keyring: AesKeyring) -> None:
    sealed = keyring.seal("secret", PLACE)
    assert key_id_of(sealed) == "2026"
    assert AesKeyring([OLD]).key_id_of(sealed) == "2026"
    assert keyring.missing == set()


def test_the_longest_id_that_the_settings_allow_is_read_from_the_head() -> None:
    longest = "x" * 32
    sealed = AesKeyring([SealingKey(longest, NEW.material)]).seal("a secret that is longer than a head" * 3, PLACE)
    assert key_id_of(sealed[:HEAD_BYTES]) == longest


@pytest.mark.parametrize(
    "damaged", [b"", b"\x01", b"\x01\x04202", b"\x02\x042026...", b"\x00", b"\x01\x02\xff\xfe...", b"\x01\x02a,..."]
)
def test_what_has_no_readable_header_names_no_key(damaged: bytes) -> None:
    assert key_id_of(damaged) is None


@given(garbage=st.binary(max_size=80))
def test_reading_the_header_of_garbage_never_fails(garbage: bytes) -> None:
    key_id_of(garbage)


@pytest.mark.parametrize("other", ["2026x", "202", "20260", "x2026"])
def test_the_header_of_one_key_is_the_beginning_of_no_others(keyring: AesKeyring, other: str) -> None:
    alike = AesKeyring([SealingKey(other, NEW.material)]).seal("secret", PLACE)
    assert keyring.seal("secret", PLACE).startswith(keyring.header)
    assert not alike.startswith(keyring.header)


def test_keys_are_listed_with_the_one_that_seals_first(keyring: AesKeyring) -> None:
    assert list(keyring.key_ids) == ["2026", "2025"]


def test_a_key_that_is_gone_is_not_missed_where_nothing_needs_it() -> None:
    keyring = AesKeyring([OLD])
    with pytest.raises(KeyUnavailable):
        keyring.open(AesKeyring([NEW]).seal("secret", PLACE), PLACE, needed=False)
    assert keyring.missing == set()


# What is damaged


@given(data=st.data())
def test_a_cut_or_changed_value_never_opens(data: st.DataObject) -> None:
    keyring = AesKeyring([NEW, OLD])
    sealed = keyring.seal("the secret", PLACE)
    at = data.draw(st.integers(0, len(sealed) - 1))
    damaged = data.draw(
        st.one_of(
            st.just(sealed[:at]),
            st.just(sealed[at + 1 :]),
            st.integers(1, 255).map(lambda bits: sealed[:at] + bytes([sealed[at] ^ bits]) + sealed[at + 1 :]),
            st.binary(min_size=1, max_size=9).map(lambda more: sealed[:at] + more + sealed[at:]),
        )
    )
    if damaged == sealed:  # a byte inserted beside its like
        return
    with pytest.raises((SealBroken, KeyUnavailable)):
        keyring.open(damaged, PLACE)


@given(garbage=st.binary(max_size=80))
def test_garbage_never_opens(garbage: bytes) -> None:
    with pytest.raises((SealBroken, KeyUnavailable)):
        AesKeyring([NEW]).open(garbage, PLACE)


@given(rest=st.binary(max_size=80))
def test_garbage_behind_a_good_header_is_a_broken_seal(rest: bytes) -> None:
    with pytest.raises(SealBroken):
        AesKeyring([NEW]).open(HEADER + rest, PLACE)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_of_the_format_is_a_broken_seal(keyring: AesKeyring, version: int) -> None:
    with pytest.raises(SealBroken):
        keyring.open(bytes([version]) + keyring.seal("secret", PLACE)[1:], PLACE)


def test_another_version_is_no_business_of_an_unknown_key() -> None:
    keyring = AesKeyring([OLD])
    with pytest.raises(SealBroken):
        keyring.open(b"\x02" + AesKeyring([NEW]).seal("secret", PLACE)[1:], PLACE)
    assert keyring.missing == set()


# Nothing is told


def test_no_repr_shows_a_key(keyring: AesKeyring) -> None:
    shown = f"{NEW!r} {NEW} {keyring!r} {keyring} {[NEW]}"
    assert "nnnn" not in shown
    assert NEW.material.hex() not in shown


def test_a_broken_seal_tells_nothing(keyring: AesKeyring) -> None:
    sealed = keyring.seal("secret", PLACE)
    with pytest.raises(SealBroken) as failure:
        keyring.open(sealed, replace(PLACE, user="bob"))
    assert str(failure.value) == ""
    assert failure.value.__suppress_context__
