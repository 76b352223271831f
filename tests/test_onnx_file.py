"""Files of ONNX that are damaged or forged: what OnnxScorer refuses, and why it says so."""

import json

import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto, helper, numpy_helper
from onnx_models import NEW, NORMAL, patcher
from sklearn.pipeline import make_pipeline

from skanopatch import BandStatistics, MahalanobisDetector, OnnxScorer, export_onnx
from skanopatch.persistence import onnx_file
from skanopatch.persistence.onnx_file import read_file, seal


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    model = make_pipeline(patcher(), BandStatistics(), MahalanobisDetector()).fit(NORMAL)
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    export_onnx(model, path, maps=False)
    return path


@pytest.fixture
def forged(file, tmp_path):
    """Return a function that changes a copy of the file, with a right checksum, and opens it."""

    def forge(change, n_graphs=1):
        model = onnx.load(file)
        del model.metadata_props[-1]
        change(model)
        content = model.SerializeToString()
        content += (n_graphs - 1) * onnx.ModelProto(graph=model.graph).SerializeToString()
        path = tmp_path / "forged.onnx"
        path.write_bytes(content + seal(content))
        return OnnxScorer(path, n_threads=1)

    return forge


def test_a_copy_that_changes_nothing_scores_the_same(file, forged, tmp_path):
    expected = OnnxScorer(file).score_samples(NEW)
    assert_array_equal(forged(lambda model: None).score_samples(NEW), expected)
    onnx.save(onnx.load(file), tmp_path / "saved.onnx")  # by another program
    assert_array_equal(OnnxScorer(tmp_path / "saved.onnx").score_samples(NEW), expected)
    content, properties = read_file(file)
    assert content == file.read_bytes()
    assert properties["sample_rate"] == 16000


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999, 1.0])
def test_one_bit_that_flipped_is_damage(file, tmp_path, share):
    content = bytearray(file.read_bytes())
    content[round(share * (len(content) - 1))] ^= 1
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.onnx' is no file of .*its checksum is not that of"):
        OnnxScorer(tmp_path / "m.onnx")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused(file, tmp_path, share):
    content = file.read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: round(share * len(content))])
    with pytest.raises(ValueError, match="does not end with a checksum, or is cut off"):
        OnnxScorer(tmp_path / "m.onnx")


# --- Forged graphs ----------------------------------------------------------------------------


def constant(model, n_axes=None):
    """Return a constant with some axes."""
    return next(t for t in model.graph.initializer if n_axes is None or len(t.dims) == n_axes)


def refer_to_a_file(model):
    tensor = constant(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def refer_without_a_location(model):
    constant(model).external_data.add(key="location", value="/etc/passwd")


def enlarge(model):
    constant(model, 2).dims[:] = [2**31, 2**31]


def shrink_below_zero(model):
    constant(model, 2).dims[0] = -1


def add_domain(model):
    model.graph.node[0].domain = "com.microsoft"


def import_domain(model):
    model.opset_import.add(domain="evil", version=1)


def add_function(model):
    model.functions.add(name="Add", domain="")


def train(model):
    model.training_info.add()


def add_loop(kind):
    def change(model):
        body = helper.make_graph([], "body", [], [])
        model.graph.node.append(helper.make_node(kind, [], ["x"], body=body))

    return change


def add_loop_in_a_loop(model):
    inner = helper.make_graph([], "inner", [], [])
    body = helper.make_graph([helper.make_node("Scan", [], ["y"], body=inner)], "outer", [], [])
    model.graph.node.append(helper.make_node("Scan", [], ["x"], body=body))


def add_graph_to_a_sum(model):
    model.graph.node[0].attribute.add(name="g").g.name = "graph"


def add_sparse_tensor(model):
    model.graph.sparse_initializer.add().dims.append(3)


def make_huge(kind, *sizes):
    def change(model):
        names = [f"size{i}" for i in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.array(size), name))
        model.graph.node.append(helper.make_node(kind, names, ["x"]))

    return change


def make_huge_by_a_node(model):
    value = numpy_helper.from_array(np.array([2**30]))
    model.graph.node.append(helper.make_node("Constant", [], ["size"], value=value))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["x"]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (refer_to_a_file, "its values are in another file"),
        (refer_without_a_location, "its values are in another file"),
        (enlarge, f"a tensor of {2**62} values has"),
        (shrink_below_zero, r"a tensor of \d+ values has"),
        (add_domain, "operators of 'com.microsoft', which are not standard"),
        (import_domain, "operators of 'evil', which are not standard"),
        (add_function, "functions or a training graph"),
        (train, "functions or a training graph"),
        (add_loop("If"), "the operator 'If' where export_onnx writes none"),
        (add_loop("Loop"), "the operator 'Loop' where export_onnx writes none"),
        (add_loop_in_a_loop, "the operator 'Scan' where export_onnx writes none"),
        (add_graph_to_a_sum, "'Shape' has a graph or a sparse tensor"),
        (add_sparse_tensor, "it has a sparse tensor"),
        (make_huge("Range", 0, 2**31, 1), f"'Range' makes {2**31} values"),
        (make_huge("ConstantOfShape", [2**13, 2**13]), f"'ConstantOfShape' makes {2**26} values"),
        (make_huge_by_a_node, f"'ConstantOfShape' makes {2**30} values"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_graph_that_no_export_makes_is_refused_before_onnxruntime_reads_it(
    forged, monkeypatch, change, reason
):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", None)  # a call would be a TypeError
    with pytest.raises(ValueError, match=rf"forged\.onnx' is no file of .*{reason}"):
        forged(change)


def test_two_graphs_are_refused(forged):
    with pytest.raises(ValueError, match="it has 2 graphs, not one"):
        forged(lambda model: None, n_graphs=2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x3a\x01\x08", "it ends within a number"),  # 3a: a graph
        (b"\x08" + 10 * b"\xff", "a number has more than 10 bytes"),
        (b"\x3a\x02\x0a\x05", "a field of 5 bytes goes beyond its end"),
        (b"\x0b", "a field has the unknown type 3"),
        (b"\x38\x01", "a field that must be a message is a number"),
        (b"", "it has 0 graphs, not one"),
        (b"\x08\x09" * 101, "it has more than 100 fields"),
    ],
)
def test_bytes_that_are_no_message_are_refused(tmp_path, monkeypatch, content, reason):
    monkeypatch.setattr(onnx_file, "_MOST_FIELDS", 100)
    (tmp_path / "m.onnx").write_bytes(content + seal(content))
    with pytest.raises(ValueError, match=rf"m\.onnx' is no file of .*: {reason}"):
        read_file(tmp_path / "m.onnx")


# --- Forged properties ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("skanopatch", None, "it has no property 'skanopatch'"),
        ("offset", None, "it has no property 'offset'"),
        ("offset", "NaN", "'offset' must be a number. Got nan"),
        ("offset", "true", "'offset' must be a number. Got True"),
        ("offset", "1" + 400 * "0", r"'offset' must be a number. Got 10+\.\.\."),
        ("sample_rate", "16000.5", "'sample_rate' must be a positive integer"),
        ("window_samples", str(2**40), f"an integer from 1 to {2**26}. Got {2**40}"),
        ("window_samples", "800", "the 16000 samples of its duration. Got 800"),
        ("duration", "-1", "'duration' must be a positive number"),
        ("hop", "0", "'hop' must be null or a positive number"),
        ("hop", "1e-9", "'hop' must be null or at least 0.001 s"),
        ("hop", "0.5", "'window_numbers' must be ascending numbers from 1 on. Got None"),
        ("channel", "left", "'mean' or the number of a channel. Got 'left'"),
        ("channel", "-1", "'mean' or the number of a channel. Got -1"),
        ("training_scores", "[2, 1]", "finite numbers in ascending order"),
        ("training_scores", "[1, 2]", "'session_weights' must be a weight for each of 2"),
        ("session_weights", "[-1]", "numbers that are not negative"),
    ],
)
def test_properties_that_no_export_writes_are_refused(forged, name, value, reason):
    def change(model):
        (item,) = (item for item in model.metadata_props if item.key == name)
        if value is None:
            model.metadata_props.remove(item)
        else:
            item.value = value

    with pytest.raises(ValueError, match=rf"forged\.onnx' is no file of .*{reason}"):
        forged(change)


def test_ratios_must_fit_the_numbers_of_windows(forged):
    def change(model):
        properties = {"hop": 0.5, "window_numbers": [1, 2], "window_ratios": [1.0, 0.5]}
        del model.metadata_props[[p.key for p in model.metadata_props].index("hop")]
        for name, value in properties.items():
            model.metadata_props.add(key=name, value=json.dumps(value))

    with pytest.raises(ValueError, match="a ratio of 1 or more for each of 2 window_numbers"):
        forged(change)


def test_a_property_that_occurs_twice_is_refused(forged):
    with pytest.raises(ValueError, match="a property occurs twice"):
        forged(lambda model: model.metadata_props.add(key="offset", value="-1"))


# --- Graphs that contradict the file ----------------------------------------------------------


def test_another_threshold_than_that_of_the_graph_is_found(forged):
    def change(model):
        (item,) = (item for item in model.metadata_props if item.key == "offset")
        item.value = str(2 * float(item.value))

    scorer = forged(change)
    with pytest.raises(ValueError, match=r"forged\.onnx' contradicts itself: with the offset"):
        scorer.predict(NEW)
    lenient = OnnxScorer(scorer.path, on_error="nan")  # which is about clips, not about the file
    with pytest.raises(ValueError, match="contradicts itself"):
        lenient.predict(NEW)


def test_a_graph_without_the_outputs_is_refused(forged):
    def change(model):
        del model.graph.output[0]

    with pytest.raises(ValueError, match=r"gives \['decision', 'p_value'\]"):
        forged(change)


def test_a_graph_that_fails_names_the_file(forged):
    def change(model):  # positions beyond the samples
        node = next(node for node in model.graph.node if node.op_type == "Mod")
        node.op_type = "Add"

    with pytest.raises(ValueError, match=r"forged\.onnx' gives no scores: "):
        forged(change).score_samples(NEW)


def test_outputs_of_another_shape_name_the_file(forged):
    def change(model):
        node = next(node for node in model.graph.node if node.output[0] == "p_value")
        node.output[0] = "one"
        zero = numpy_helper.from_array(np.array([0]), "zero")
        model.graph.initializer.append(zero)
        model.graph.node.append(helper.make_node("Gather", ["one", "zero"], ["p_value"]))

    with pytest.raises(ValueError, match=r"'p_value': \(1,\)\} for 5 windows"):
        forged(change)._run(np.stack(NORMAL[:5]))
