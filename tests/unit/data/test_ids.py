"""Fids of strings: 64 bits, the same for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.data.ids import fid_from_text, fids_from_texts

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


@pytest.mark.parametrize(
    ("text", "fid"),
    [
        ("pop", -5258012113498804276),
        ("", -5426141060434712860),
        ("Müller", -4620035560732007515),
        ("\u77ed\u89c6\u9891", 7846871653793558372),
    ],
)
def test_the_fid_of_a_text_is_pinned(text: str, fid: int) -> None:
    assert fid_from_text(text) == fid


@given(TEXTS)
def test_a_fid_is_the_first_8_bytes_of_the_digest(text: str) -> None:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    assert np.int64(fid_from_text(text)).tobytes() == np.frombuffer(digest, "<i8").tobytes()


@given(st.lists(TEXTS, max_size=10))
def test_many_texts_give_the_fids_of_each(texts: list[str]) -> None:
    fids = fids_from_texts(iter(texts))
    assert fids.dtype == np.int64
    assert fids.tolist() == [fid_from_text(text) for text in texts]
