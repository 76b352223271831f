"""export_onnx: a file scores clips as the model that it was made of does."""

import subprocess
import sys
from dataclasses import asdict
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mini_beats import save_mini_beats
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper, numpy_helper
from onnx_models import CLIPS, DURATION, NEW, NORMAL, RATE, assert_equal_to, export, patcher
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from test_backbones import make_ast
from test_backbones_ced import write as write_ced
from test_backbones_eat import write_folder as write_eat

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    BandStatistics,
    CalibratedDetector,
    FineTuning,
    FitOnNormal,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelStatistics,
    OnnxScorer,
    PatchKNNDetector,
    PatchStatistics,
    SubbandKNNDetector,
    export_onnx,
    patchify,
)
from skanopatch.backbones import create_backbone, make_patcher
from skanopatch.backbones.front_ends import DECIBELS
from skanopatch.persistence.onnx_graph import OPSET
from skanopatch.persistence.onnx_network import quantize
from skanopatch.spectra.patches import PatchGrid

GROUPS, DOMAINS = ["fan"] * 12 + ["pump"] * 12, ["source", "target"] * 12

DETECTORS = {
    "mahalanobis": MahalanobisDetector(),
    "mahalanobis as given": MahalanobisDetector("ledoit-wolf", standardize=False),
    "knn": KNNDetector(),
    "knn, Euclidean": KNNDetector(3, metric="euclidean", standardize=True),
    "knn, local density": KNNDetector(2, normalization="local_density"),
    "knn, variance": KNNDetector(2, normalization="variance_min"),
    "gmm": GMMDetector(random_state=0),
    "calibrated": CalibratedDetector(
        make_pipeline(StandardScaler(), PCA(4, random_state=0), GaussianMixture(2, random_state=0))
    ),
    "calibrated PCA": CalibratedDetector(PCA(3, svd_solver="full")),
    "joined": JoinedDetector(
        [("a", MahalanobisDetector()), ("b", make_pipeline(StandardScaler(), KNNDetector()))]
    ),
}
MAPS = {
    "bands": SubbandKNNDetector(),
    "bands, cosine": SubbandKNNDetector("cosine"),
    "patches": PatchKNNDetector(max_bank_size=300, random_state=0),
    "patches, Euclidean": PatchKNNDetector("euclidean", max_bank_size=None),
}
TRANSFORMERS = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    MinMaxScaler(clip=True),
    MaxAbsScaler(),
    RobustScaler(),
    Normalizer("l1"),
    Normalizer("max"),
    make_pipeline(PCA(3, random_state=0), PowerTransformer()),  # of few digits in float32 else
    PCA(4, whiten=True, random_state=0),
    FunctionTransformer(),
    FeatureUnion(
        [("pca", PCA(3, random_state=0)), ("scaled", StandardScaler())],
        transformer_weights={"pca": 2.0},
    ),
]


def name_of(estimator):
    return "".join(repr(estimator).split())[:40]


# --- Pipelines ------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
def test_a_pipeline_of_statistics_scores_the_same(detector, tmp_path):
    pipe = make_pipeline(patcher(), BandStatistics(), detector).fit(NORMAL)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))


def test_mel_statistics_score_the_same(tmp_path):
    pipe = make_pipeline(patcher(), MelStatistics(), MahalanobisDetector()).fit(NORMAL)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))


@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=name_of)
def test_what_scikit_learn_puts_between_is_computed_too(transformer, tmp_path):
    detector = KNNDetector(metric="euclidean", standardize=True)
    pipe = make_pipeline(patcher(), BandStatistics(), transformer, detector).fit(NORMAL)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"), NEW)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "spherical"])
def test_mixtures_of_any_covariance_score_the_same(covariance_type, tmp_path):
    mixture = GaussianMixture(2, covariance_type=covariance_type, random_state=0)
    steps = BandStatistics(), StandardScaler(), PCA(3, random_state=0)
    pipe = make_pipeline(patcher(), *steps, CalibratedDetector(mixture)).fit(NORMAL)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))


@pytest.mark.parametrize("detector", MAPS.values(), ids=MAPS)
def test_maps_are_the_same(detector, tmp_path):
    pipe = make_pipeline(patcher(), PatchStatistics(), detector).fit(NORMAL)
    scorer = export(pipe, tmp_path / "m.onnx")
    assert_equal_to(pipe, scorer)
    assert scorer.anomaly_map(NEW).shape == (len(NEW), 6, 8)


def test_patches_themselves_are_tokens(tmp_path):
    detector = PatchKNNDetector("euclidean", max_bank_size=None)
    pipe = make_pipeline(patcher(), detector).fit(NORMAL)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))


@pytest.mark.parametrize("domains", [None, DOMAINS], ids=["alone", "domains"])
@pytest.mark.parametrize("pooled", [False, True], ids=["each", "pooled"])
def test_groups_count_by_the_best_one_or_by_the_one_named(domains, pooled, tmp_path):
    detector = GroupedDetector(MahalanobisDetector(), pooled=pooled)
    pipe = make_pipeline(patcher(), BandStatistics(), detector)
    metadata = {"groupeddetector__groups": GROUPS}
    pipe.fit(NORMAL, **metadata, groupeddetector__domains=domains)
    assert_equal_to(pipe, export(pipe, tmp_path / "any.onnx"))
    scorer = export(pipe, tmp_path / "pump.onnx", group="pump")
    assert_equal_to(pipe, scorer, group="pump")
    assert scorer.metadata_["group"] == "pump"


def test_groups_of_maps_are_the_same(tmp_path):
    pipe = make_pipeline(patcher(), PatchStatistics(), GroupedDetector(SubbandKNNDetector()))
    pipe.fit(NORMAL, groupeddetector__groups=GROUPS)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))


def test_a_group_that_is_not_known_is_refused(tmp_path):
    pipe = make_pipeline(patcher(), BandStatistics(), KNNDetector()).fit(NORMAL)
    with pytest.raises(ValueError, match=r"knows \(none\). Got 'fan' instead"):
        export_onnx(pipe, tmp_path / "m.onnx", group="fan")


@pytest.mark.parametrize(
    "params",
    [
        {"level": "normalized"},
        {"sample_rate": 8000, "n_mels": 64, "window": "hanning", "scale": 1.0},
        {"frame_length": 0.032, "frame_shift": 0.016, "f_min": 50.0, "f_max": 7000.0},
        {"frame_length": 0.02507, "frame_shift": 0.0101},  # 401 and 161 samples
        {"preemphasis": 0.0, "patch_size": 8, "window": "hamming"},
    ],
    ids=["level", "rate", "frames", "odd frames", "patches"],
)
def test_every_front_end_is_computed_alike(params, tmp_path):
    pipe = make_pipeline(patcher(**params), BandStatistics(), MahalanobisDetector())
    pipe.fit([(clip, RATE) for clip in NORMAL])
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"), [(clip, RATE) for clip in CLIPS])


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"level": "normalized"},
        {"frame_length": 0.02507, "frame_shift": 0.0101, "window": "hamming", "scale": 100.0},
        {"sample_rate": 8000, "f_max": 3000.0},
    ],
    ids=["ced", "level", "odd frames", "rate"],
)
def test_decibels_are_computed_alike(params, tmp_path):
    decibels = patcher(**{**asdict(DECIBELS), **params})
    statistics = BandStatistics(log_unit=decibels.front_end.log_unit)
    pipe = make_pipeline(decibels, statistics, MahalanobisDetector())
    pipe.fit([(clip, RATE) for clip in NORMAL])
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"), [(clip, RATE) for clip in CLIPS])


def test_the_range_of_decibels_counts_from_the_loudest_of_all_frames(tmp_path):
    """A click in the last frame, which fills no patch, lifts the floor of all others."""
    clips = [clip.copy() for clip in NORMAL]
    for i, clip in enumerate(clips):
        clip[:8000] *= 1e-6
        clip[-1] = 0.1 * (1 + i % 3)
    statistics = MelStatistics()
    pipe = make_pipeline(patcher(**asdict(DECIBELS)), statistics, KNNDetector(metric="euclidean"))
    pipe.fit(clips)
    scorer = export(pipe, tmp_path / "m.onnx")
    assert_equal_to(pipe, scorer, [*clips[:2], 3 * clips[2], NEW[0]])
    tail = np.concatenate([clips[0][:-1], [50.0]]).astype(np.float32)
    quiet, loud = scorer.score_samples([clips[0], tail])
    assert abs(loud - quiet) > 0.1 * abs(quiet)


def test_fit_on_normal_is_exported_as_what_it_holds(tmp_path):
    pipe = make_pipeline(patcher(), BandStatistics(), MahalanobisDetector())
    fitted = FitOnNormal(pipe).fit(NORMAL)
    assert_equal_to(fitted.estimator_, export(fitted, tmp_path / "m.onnx"))


# --- Networks -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Return a pipeline with a network, and a file of each precision."""
    folder = tmp_path_factory.mktemp("network")
    embedder = AnoPatchEmbedder(statistics=False)
    pipe = make_pipeline(patcher(), embedder, KNNDetector()).fit(NORMAL)
    paths = {precision: folder / f"{precision}.onnx" for precision in ("float32", "int8")}
    for precision, path in paths.items():
        export_onnx(pipe, path, precision=precision)
    return pipe, paths


@pytest.mark.slow
def test_a_network_scores_the_same(network):
    pipe, paths = network
    assert_equal_to(pipe, OnnxScorer(paths["float32"], n_threads=1))


@pytest.mark.slow
def test_int8_is_smaller_and_ranks_clips_alike(network):
    _, paths = network
    assert paths["int8"].stat().st_size < 0.5 * paths["float32"].stat().st_size
    scores, expected = (OnnxScorer(paths[p]).score_samples(NEW) for p in ("int8", "float32"))
    assert_array_equal(np.argsort(scores)[:2], np.argsort(expected)[:2])  # the two faults
    assert_allclose(scores, expected, rtol=0.1)
    assert not np.allclose(scores, expected, rtol=1e-4)  # it is another precision


def test_int8_keeps_the_digits_of_small_tokens_beside_a_large_one():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(64, 32)).astype(np.float32)
    tokens = rng.normal(size=(1, 40, 64)).astype(np.float32)
    tokens[0, 0] *= 1000
    tokens[0, 1] = 0
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 40, size])
        for name, size in (("tokens", 64), ("products", 32))
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["tokens", "matrix"], ["products"])],
        "product",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    session = onnxruntime.InferenceSession(quantize(model).SerializeToString())
    (products,) = session.run(None, {"tokens": tokens})
    error = np.linalg.norm(products - tokens @ matrix, axis=2)[0]
    lengths = np.linalg.norm(tokens @ matrix, axis=2)[0]
    assert (error <= 0.02 * lengths).all()
    assert (error > 0).sum() == 39  # all but the token of zeros: they are quantized


@pytest.mark.slow
def test_a_score_of_int8_does_not_depend_on_the_other_clips(network):
    session = onnxruntime.InferenceSession(network[1]["int8"])
    clips = np.stack([NORMAL[0], 9 * NORMAL[1], NORMAL[2]])
    (together,) = session.run(["score"], {"waveform": clips})
    alone = [session.run(["score"], {"waveform": clip[None]})[0][0] for clip in clips]
    assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.slow
def test_tokens_of_beats_score_the_same(tmp_path):
    backbone = save_mini_beats(tmp_path / "mini.pt")
    embedder = AnoPatchEmbedder(backbone, output="patches", normalization="fit", layers="all")
    pipe = make_pipeline(patcher(), embedder, SubbandKNNDetector("cosine")).fit(NORMAL)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))
    # The exporter leaves nothing behind that a network keeps from call to call.
    assert np.isfinite(pipe.score_samples(NEW)).all()


def write_ast(folder):
    model, _ = make_ast()
    model.save_pretrained(folder)
    return f"ast:{folder}"


WRITERS = {
    "ast": write_ast,
    "ced": partial(write_ced, "ced"),
    "dasheng": partial(write_ced, "dasheng"),
    "eat": write_eat,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "output"),
    [("ast", "clips"), ("ced", "clips"), ("dasheng", "patches"), ("eat", "patches")],
)
def test_ast_ced_dasheng_and_eat_score_the_same(family, output, tmp_path):
    name = WRITERS[family](tmp_path)
    if output == "clips":
        embedder = AnoPatchEmbedder(name, statistics=False, pooling="rdp_gem")
        steps = embedder, KNNDetector()
    else:
        embedder = AnoPatchEmbedder(name, output="patches", layers="all")
        steps = embedder, SubbandKNNDetector("cosine")
    pipe = make_pipeline(make_patcher(name, duration=DURATION), *steps).fit(NORMAL)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))


@pytest.mark.parametrize("family", ["ced", pytest.param("eat", marks=pytest.mark.slow)])
def test_a_network_that_lora_tuned_scores_the_same(family, tmp_path):
    name = WRITERS[family](tmp_path)
    tuning = FineTuning("lora", lora_rank=2, max_epochs=2, lr=0.01, warmup=0.0, n_dims=8)
    embedder = AnoPatchEmbedder(name, statistics=False, fine_tuning=tuning, random_state=0)
    pipe = make_pipeline(make_patcher(name, duration=DURATION), embedder, KNNDetector())
    pipe.fit(NORMAL, anopatchembedder__labels=GROUPS)
    frozen = create_backbone(name, PatchGrid(6, pipe[0].n_mels // 16, 16, 16)).state_dict()
    tuned = pipe[1].module_.backbone.state_dict()
    changed = {weight for weight in frozen if not torch.equal(frozen[weight], tuned[weight])}
    assert changed == {weight for weight in frozen if weight.endswith(".attn.qkv.weight")}
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))


@pytest.mark.slow
def test_a_plain_vit_with_bands_scores_the_same(tmp_path):
    embedder = AnoPatchEmbedder(
        "timm:test_vit", pooling="rdp", keep_bands=True, layers="weighted", random_state=0
    )
    pipe = make_pipeline(patcher(), embedder, MahalanobisDetector()).fit(NORMAL)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))


def test_statistics_in_place_of_a_network_score_the_same(tmp_path):
    pipe = make_pipeline(patcher(), AnoPatchEmbedder(), KNNDetector()).fit(NORMAL)
    assert_equal_to(pipe, export(pipe, tmp_path / "m.onnx"))


# --- The recipe -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "metadata"),
    [
        ({}, {}),
        pytest.param({"gain_tolerance": 6.0}, {"domains": DOMAINS}, marks=pytest.mark.slow),
        ({}, {"groups": GROUPS}),
        pytest.param({}, {"groups": GROUPS, "domains": DOMAINS}, marks=pytest.mark.slow),
        ({"detector": KNNDetector(3)}, {}),
        ({"map_detector": PatchKNNDetector(max_bank_size=200, random_state=0)}, {}),
        ({"map_detector": "drop"}, {}),
    ],
    ids=["default", "domains", "groups", "pooled", "knn", "patches", "no maps"],
)
def test_the_recipe_scores_the_same(params, metadata, tmp_path):
    params = {"embedder": "drop", **params}
    model = AnomalousSoundDetector(patcher(), **params).fit(NORMAL, **metadata)
    has_maps = params.get("map_detector") != "drop"
    tolerance = {} if has_maps else {"map_tolerance": None}
    assert_equal_to(model, export(model, tmp_path / "m.onnx"), **tolerance)
    if "groups" in metadata:
        scorer = export(model, tmp_path / "fan.onnx", group="fan")
        assert_equal_to(model, scorer, group="fan", **tolerance)


def test_a_detector_without_closed_form_has_the_bands_of_its_blocks(tmp_path):
    detector = GMMDetector(1, random_state=0)
    model = AnomalousSoundDetector(patcher(), embedder="drop", detector=detector, gain_tolerance=0)
    model.fit(NORMAL)
    assert_equal_to(model, export(model, tmp_path / "m.onnx"), NEW)


@pytest.mark.slow
def test_a_network_that_joined_scores_the_same(tmp_path, monkeypatch):
    from skanopatch.recipes import sound_detector

    def train(embedder, patches, statistics, metadata):
        return embedder.set_params(statistics=False).fit(patches), {"network": 1.0}

    monkeypatch.setattr(sound_detector, "train_network", train)
    labels = [f"unit {i % 2}" for i in range(len(NORMAL))]
    model = AnomalousSoundDetector(patcher(), random_state=0).fit(NORMAL, labels=labels)
    assert model.members_ == ["statistics", "network"]
    assert_equal_to(model, export(model, tmp_path / "m.onnx"))


def test_an_embedder_alone_scores_the_same(tmp_path):
    embedder = MelStatistics()
    model = AnomalousSoundDetector(patcher(), embedder=embedder).fit(NORMAL)
    assert_equal_to(model, export(model, tmp_path / "m.onnx"))


# --- The file -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe():
    return AnomalousSoundDetector(patcher(), embedder="drop").fit(NORMAL)


def test_the_file_has_standard_operators_only_and_says_what_it_is(recipe, tmp_path):
    export_onnx(recipe, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert {opset.domain for opset in model.opset_import} == {""}
    assert len(model.functions) == 0
    properties = {item.key: item.value for item in model.metadata_props}
    assert properties["sample_rate"] == "16000"
    assert properties["window_samples"] == "16000"
    assert float(properties["offset"]) == recipe.offset_
    assert properties["precision"] == "float32"
    outputs = [output.name for output in model.graph.output]
    assert outputs == ["score", "decision", "p_value", "map", "map_of_moments", "map_of_score"]


def test_a_model_without_a_network_is_small(recipe, tmp_path):
    export_onnx(recipe, tmp_path / "m.onnx", maps=False)
    assert (tmp_path / "m.onnx").stat().st_size < 2e6  # half of it are the waves of the spectrum


def test_decisions_are_scores_less_the_threshold(recipe, tmp_path):
    export_onnx(recipe, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    clips = np.stack([NEW[0], NEW[2]])
    score, decision = session.run(["score", "decision"], {"waveform": clips})
    assert_allclose(decision, score - recipe.offset_, rtol=1e-12)
    assert_array_equal(np.where(decision >= 0, 1, -1), recipe.predict(clips))


def test_a_batch_scores_as_its_clips_do_alone(recipe, tmp_path):
    export_onnx(recipe, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    clips = np.stack(NORMAL)
    (together,) = session.run(["score"], {"waveform": clips})
    alone = [session.run(["score"], {"waveform": clip[None]})[0][0] for clip in clips]
    assert_allclose(together, alone, rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_clip_with_nan_or_infinity_has_no_score(bad, recipe, tmp_path):
    export_onnx(recipe, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    clips = np.stack(NORMAL[:2])
    clips[1, 50] = bad
    score, decision, p_value, map_ = session.run(None, {"waveform": clips})[:4]
    for values in (score, decision, p_value, map_):
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1]).all()


def test_maps_can_be_left_out(recipe, tmp_path):
    scorer = export(recipe, tmp_path / "m.onnx", maps=False)
    assert_allclose(scorer.score_samples(NEW), recipe.score_samples(NEW), rtol=1e-4)
    with pytest.raises(AttributeError, match="has no maps"):
        scorer.anomaly_map(NEW)


@pytest.mark.slow
def test_a_model_without_a_network_is_exported_without_torch(recipe, tmp_path):
    import joblib

    joblib.dump(recipe, tmp_path / "m.joblib")
    script = (
        "import sys, joblib\n"
        "from skanopatch import export_onnx\n"
        f"export_onnx(joblib.load({str(tmp_path / 'm.joblib')!r}), {str(tmp_path / 'm.onnx')!r})\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr


# --- Refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "detector"),
    [
        (QuantileTransformer(n_quantiles=5), KNNDetector()),
        (FunctionTransformer(np.abs), KNNDetector()),
        (None, CalibratedDetector(IsolationForest(n_estimators=3, random_state=0))),
    ],
    ids=["quantiles", "function", "forest"],
)
def test_what_has_no_form_in_onnx_is_named(step, detector, tmp_path):
    pipe = make_pipeline(patcher(), BandStatistics(), step, detector).fit(NORMAL)
    name = type(step or detector.detector).__name__
    with pytest.raises(ValueError, match=f"^{name}.* cannot be exported"):
        export_onnx(pipe, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_model_that_takes_no_clips_is_named(tmp_path):
    rows = np.random.default_rng(0).normal(size=(12, 4))
    with pytest.raises(ValueError, match=r"KNNDetector\(\) cannot be exported: it must be an Anom"):
        export_onnx(KNNDetector().fit(rows), tmp_path / "m.onnx")
    patches = patchify(np.random.default_rng(0).normal(size=(12, 32, 128)))
    model = AnomalousSoundDetector("passthrough", embedder="drop").fit(patches)
    with pytest.raises(ValueError, match="cannot be exported: it must be an Anom"):
        export_onnx(model, tmp_path / "m.onnx")


def test_parameters_are_checked(recipe, tmp_path):
    with pytest.raises(ValueError, match=r"\['float32', 'int8'\]. Got 'int4' instead"):
        export_onnx(recipe, tmp_path / "m.onnx", precision="int4")
    with pytest.raises(NotFittedError):
        export_onnx(AnomalousSoundDetector(), tmp_path / "m.onnx")


def test_without_onnx_the_error_says_how_to_get_it(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"needs onnx: pip install 'skanopatch\[onnx\]'"):
        export_onnx(recipe, tmp_path / "m.onnx")
