"""The first question to new weights: do they know more than an encoder that learned nothing?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.evaluate.encoders import (
    EncoderSpec,
    FrozenEncoder,
    Pool,
    VitEncoder,
    from_card,
    from_run,
    open_encoder,
    untrained,
)
from pretrain.evaluate.features import Work
from pretrain.evaluate.labelled import DataSet, Divided
from pretrain.evaluate.masks import Masked, MaskSet
from pretrain.evaluate.protocols import AnyAnswer, AnyProtocol, ask_any
from pretrain.evaluate.table import labelled, percent
from pretrain.evaluate.words import in_words
from pretrain.export import load_export
from pretrain.run import writing


@dataclass(frozen=True)
class Comparison:
    """What several encoders answered on one data set."""

    data: Divided | Masked
    encoders: list[FrozenEncoder]
    answers: list[dict[str, AnyAnswer]]
    """Per encoder, protocol to answer."""

    def lines(self) -> list[str]:
        """What was asked and answered, for a terminal."""
        some = next(iter(self.answers[0].values()))
        left_out = f"; {len(some.unreadable)} could not be read: {', '.join(some.unreadable[:5])}"
        return [
            f"{some.train_images:,} training and {some.test_images:,} test images in {len(self.data.classes)} "
            f"classes{left_out if some.unreadable else ''}",
            *([self.data.one_sided] if self.data.one_sided else []),
            *(
                f"{each.name}: {self._shown(each, answers)}"
                for each, answers in zip(self.encoders, self.answers, strict=True)
            ),
            f"{' and '.join(some.scores)} with the 95 % interval of a bootstrap over the test images:",
            *self._table(),
        ]

    def _shown(self, encoder: FrozenEncoder, answers: Mapping[str, AnyAnswer]) -> str:
        sides = sorted({side for answer in answers.values() for side in answer.details["sides"]})
        return in_words(encoder, sides, windows=isinstance(self.data, Masked))

    def _table(self) -> list[str]:
        wide = [max(len(encoder.name), 21) for encoder in self.encoders]
        asked = [(protocol, score) for protocol, answer in self.answers[0].items() for score in answer.scores]
        first = max(len(labelled(*each)) for each in asked) + 2
        heads = "  ".join(f"{each.name:>{width}}" for each, width in zip(self.encoders, wide, strict=True))
        rows = [" " * first + heads]
        for protocol, score in asked:
            cells = [percent(answers[protocol].scores[score]) for answers in self.answers]
            rows.append(
                f"{labelled(protocol, score):<{first}}"
                + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, wide, strict=True))
            )
        return rows

    def write(self, path: Path, dataset: DataSet | MaskSet, protocols: Mapping[str, AnyProtocol]) -> None:
        """Write everything as JSON."""
        encoders = [
            {"name": encoder.name, "identity": encoder.identity, "input": self._shown(encoder, answers),
             "answers": {protocol: answer.as_json() for protocol, answer in answers.items()}}
            for encoder, answers in zip(self.encoders, self.answers, strict=True)
        ]  # fmt: skip
        about = {
            "data": dataset.model_dump(mode="json"), "classes": self.data.classes, "encoders": encoders,
            "protocols": {name: protocol.model_dump(mode="json") for name, protocol in protocols.items()},
        }  # fmt: skip
        with writing(path) as aside:
            aside.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def chosen_encoders(
    run: Path | None, weights: Path | None, specs: Sequence[str], pool: Pool, seed: int
) -> list[FrozenEncoder]:
    """The encoders of a command line; one of ours is set beside the same before training.

    Raises:
        InputError: see :func:`pretrain.evaluate.encoders.open_encoder`.
    """
    ours: list[VitEncoder] = []
    if run is not None:
        ours = [from_run(run, pool)]
    elif weights is not None:
        ours = [from_card(weights.name, *load_export(weights), pool)]
    others = [open_encoder(EncoderSpec(spec=spec, seed=seed), pool) for spec in specs]
    return [*ours, *(untrained(each, seed) for each in ours), *others]


def compare(
    encoders: Sequence[FrozenEncoder],
    data: Divided | Masked,
    protocols: Mapping[str, AnyProtocol],
    work: Work | None = None,
) -> Comparison:
    """Ask several encoders on the same images.

    Raises:
        InputError: see :func:`pretrain.evaluate.protocols.ask_any`.
    """
    work = work or Work()
    answers = [{name: ask_any(encoder, data, each, work) for name, each in protocols.items()} for encoder in encoders]
    return Comparison(data, list(encoders), answers)
