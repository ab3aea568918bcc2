"""What a suspended task awaits, where its code is compiled (Cython): such generators have no frame."""

from __future__ import annotations

from disconnect_mw._frames import chain, frame_of, is_of_package


class CompiledGenerator:
    ag_await = None


def test_a_compiled_generator_has_no_frame_and_belongs_to_no_package() -> None:
    """BlackSheep's streams are such generators: the search for a2wsgi failed in them, and no cancellation came."""
    generator = CompiledGenerator()
    assert [*chain(generator)] == [generator]
    assert frame_of(generator) is None
    assert not is_of_package("a2wsgi", generator)
