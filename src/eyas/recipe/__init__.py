"""Recipes: what a user writes. Loads without torch."""

from eyas.recipe.ablation import AblationSpec, ClaimSpec, VariantSpec
from eyas.recipe.calibration import calibration_source
from eyas.recipe.curriculum import CurriculumSpec, WindowSpec
from eyas.recipe.edge import FIXED_SHAPES, NOT_RUN_HERE, BenchStage, ExportStage, Format
from eyas.recipe.lineage import lineage, training_rounds
from eyas.recipe.load import (
    Recipe,
    check_references,
    descent,
    expand,
    load_recipe,
    parse_recipe,
    read_recipe,
    recipe_from,
)
from eyas.recipe.loss import LEGAL, Divergence, Legal, LossSpec, Objective, Tail, Target
from eyas.recipe.models import ModelSpec, PruneSpec
from eyas.recipe.override import assign, parse_yaml
from eyas.recipe.score import ScoreSpec
from eyas.recipe.selection import DistillSelectionSpec, SelectionSpec
from eyas.recipe.sources import (
    ArithmeticSource,
    DataSource,
    FieldMap,
    FileSource,
    HubSource,
    MixtureSource,
    PlainSource,
    ReasoningGymSource,
    RecordSource,
    WordsSource,
)
from eyas.recipe.specs import (
    THINKING_FORMATS,
    ExecutionSpec,
    LoraSpec,
    SamplingSpec,
    ThinkingSpec,
    TrainingSpec,
)
from eyas.recipe.stage import Kind, StageSpec
from eyas.recipe.stages import (
    EvaluateStage,
    PrepareStage,
    ReportStage,
    RolloutStage,
    ScoreStage,
    Stage,
    SynthesizeStage,
)
from eyas.recipe.training import DistillStage, SftStage

__all__ = [
    "FIXED_SHAPES",
    "LEGAL",
    "NOT_RUN_HERE",
    "THINKING_FORMATS",
    "AblationSpec",
    "ArithmeticSource",
    "BenchStage",
    "ClaimSpec",
    "CurriculumSpec",
    "DataSource",
    "DistillSelectionSpec",
    "DistillStage",
    "Divergence",
    "EvaluateStage",
    "ExecutionSpec",
    "ExportStage",
    "FieldMap",
    "FileSource",
    "Format",
    "HubSource",
    "Kind",
    "Legal",
    "LoraSpec",
    "LossSpec",
    "MixtureSource",
    "ModelSpec",
    "Objective",
    "PlainSource",
    "PrepareStage",
    "PruneSpec",
    "ReasoningGymSource",
    "Recipe",
    "RecordSource",
    "ReportStage",
    "RolloutStage",
    "SamplingSpec",
    "ScoreSpec",
    "ScoreStage",
    "SelectionSpec",
    "SftStage",
    "Stage",
    "StageSpec",
    "SynthesizeStage",
    "Tail",
    "Target",
    "ThinkingSpec",
    "TrainingSpec",
    "VariantSpec",
    "WindowSpec",
    "WordsSource",
    "assign",
    "calibration_source",
    "check_references",
    "descent",
    "expand",
    "lineage",
    "load_recipe",
    "parse_recipe",
    "parse_yaml",
    "read_recipe",
    "recipe_from",
    "training_rounds",
]
