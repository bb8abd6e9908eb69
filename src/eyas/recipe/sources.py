"""Where a recipe's examples come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from eyas.recipe.graders import GraderName
from eyas.recipe.specs import Spec


class ArithmeticSource(Spec):
    """Chains of additions and subtractions of two-digit numbers, generated; the embedded pair's task."""

    type: Literal["arithmetic"]
    terms: tuple[int, ...] = (2, 3)
    """How many numbers a chain may have."""


class WordsSource(Spec):
    """Letters of a made-up word in reverse, generated; the embedded pair's off-task."""

    type: Literal["words"]


class ReasoningGymSource(Spec):
    """Tasks of the `reasoning-gym` package, graded by its own verifier."""

    type: Literal["reasoning_gym"]
    tasks: dict[str, dict[str, Any]]
    """Task name to its configuration; drawn in equal shares."""


class FieldMap(Spec):
    """What a record's fields are called, where it is in none of the schemas of docs/data.md."""

    prompt: str
    """Field of the prompt: text, or a list of messages."""
    answer: str | None = None
    """Field of the reference answer, with or without its reasoning; none for a source of prompts alone."""
    reasoning: str | None = None
    """Field of the reference's reasoning, where it is apart from the answer."""
    level: str | None = None
    """Field of the difficulty class, for the breakdown in the report."""
    system: str | None = None
    """Field of the system message."""
    metadata: str | None = None
    """Field of what the grader checks by beside the answer: for `code` the tests, else what `metadata` holds in
    docs/graders.md."""


class RecordSource(Spec):
    """What a source of the user's records says, whether they are files or a data set of the hub."""

    grader: GraderName = "numeric"
    """How answers are checked: a name of docs/graders.md, or your own function as `path/to/file.py:function`."""
    fields: FieldMap | None = None
    """What the fields are called; without it one of the known schemas is recognised by its keys."""
    max_bad_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of malformed records up to which they are dropped and counted; by default the first one is an error."""


class FileSource(RecordSource):
    """A data file, or a directory of shards: JSON Lines, a JSON array, CSV, TSV (all also as `.gz`) or Parquet.

    The schemas that need no configuration are in docs/data.md.
    """

    type: Literal["file"]
    path: str
    """File or directory of the training and validation examples (and test ones, unless `test_path` is given)."""
    test_path: str | None = None
    """Test examples; without it 10 % of `path`, by hash of the problem, are held out."""


class HubSource(RecordSource):
    """A data set on the Hugging Face hub, in the same schemas as a file (extra `eyas[hub]`)."""

    type: Literal["hub"]
    id: str
    """Repository of the data set, for instance `openai/gsm8k`."""
    config: str | None = None
    """Which of the data set's configurations; none for a data set that has only one."""
    revision: str | None = None
    """Commit, tag or branch of the data set."""
    split: str = "train"
    """Split of the training and validation examples (and test ones, unless `test_split` is given)."""
    test_split: str | None = None
    """Split of the test examples; without it 10 % of `split`, by hash of the problem, are held out."""


class MixtureSource(Spec):
    """Several sources, each with its share of the examples."""

    type: Literal["mixture"]
    parts: tuple[MixturePart, ...] = Field(min_length=1)
    """What is mixed, in the order in which the examples come."""


PlainSource = ArithmeticSource | WordsSource | ReasoningGymSource | FileSource | HubSource
DataSource = Annotated[PlainSource | MixtureSource, Field(discriminator="type")]


class MixturePart(Spec):
    """One source of a mixture."""

    share: float = Field(gt=0)
    """Weight of this part: its share of the examples is this over the sum of all parts' shares."""
    source: Annotated[PlainSource, Field(discriminator="type")]
    """Any source but another mixture."""


MixtureSource.model_rebuild()


class HeldOut(Spec):
    """An evaluation set: what a prepare stage holds out of a source."""

    source: DataSource
    """Where its examples come from."""
    split: Literal["validation", "test"]
    """Which split of the source."""
    count: int = Field(ge=1)
    """At most this many examples."""
