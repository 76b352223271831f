import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import butter, hilbert, sosfiltfilt
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torchaudio.compliance.kaldi import fbank

from skanopatch.datasets import make_machine_sounds
from skanopatch.datasets.acoustics import Run, harmonics
from skanopatch.datasets.machines import MACHINES, Bearing, Fan, Gearbox, Slider, Valve

SAMPLE_RATE = 16000
SECONDS = 10
RATE = 25.0  # cycles a second: a whole number in the clip, so every order is one bin of the FFT


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def steady_run(rate=RATE, sample_rate=SAMPLE_RATE, load=1.0):
    return Run(np.arange(SECONDS * sample_rate) * rate / sample_rate, load, sample_rate)


def amplitude(sound, frequency):
    """Amplitude of a sine that fits a whole number of times into the sound."""
    spectrum = np.abs(np.fft.rfft(sound)) * 2 / len(sound)
    return spectrum[round(frequency * SECONDS)]


def floor(sound, frequency):
    """Typical amplitude between the shaft orders around a frequency."""
    spectrum = np.abs(np.fft.rfft(sound)) * 2 / len(sound)
    centre, order = round(frequency * SECONDS), round(RATE * SECONDS)
    return np.median(spectrum[centre - order + 20 : centre - 20])


def envelope_spectrum(sound, centre):
    """Frequencies and amplitudes of the squared envelope around a resonance."""
    band = butter(4, (0.75 * centre, 1.25 * centre), "bandpass", fs=SAMPLE_RATE, output="sos")
    envelope = np.abs(hilbert(sosfiltfilt(band, sound))) ** 2
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    return np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE), spectrum


# What sounds are made of


def test_resonance_answers_an_impulse_by_a_decaying_sine():
    impulse = np.zeros(400)
    impulse[0] = 1.0
    t = np.arange(400) / SAMPLE_RATE
    expected = np.exp(-t / 0.003) * np.sin(2 * np.pi * 2100.0 * t)
    assert_allclose(steady_run().ring(impulse, 2100.0, 0.003), expected, atol=1e-12)


def test_impacts_keep_their_force_and_their_time():
    run = steady_run()
    cycles = np.array([10.3, 99.99, 200.5])
    train = run.impacts(cycles, np.array([1.0, 2.0, 3.0]))
    assert_allclose(train.sum(), 6.0)
    moment = (train * np.arange(len(train))).sum() / SAMPLE_RATE
    assert_allclose(moment, (cycles * [1.0, 2.0, 3.0]).sum() / RATE)


def test_impacts_outside_the_clip_are_dropped():
    run = steady_run()
    assert not run.impacts(np.array([-0.1, run.cycles[-1] + 0.1]), np.ones(2)).any()


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 44100])
def test_orders_above_the_nyquist_frequency_are_left_out_not_aliased(sample_rate):
    nyquist = sample_rate / 2
    below, above = int(0.9 * nyquist / RATE), int(1.1 * nyquist / RATE)
    waveform = harmonics(np.array([below, above]), np.ones(2), np.zeros(2))
    sound = steady_run(sample_rate=sample_rate).repeat(waveform)
    power = np.abs(np.fft.rfft(sound)) ** 2
    line = power[round(below * RATE * SECONDS)]
    # The rest is what linear interpolation between the points of the waveform costs.
    assert 10 * np.log10((power.sum() - line) / line) < -40


# What machines sound like


def test_gear_mesh_is_at_teeth_times_shaft_rate(rng):
    gearbox = Gearbox(rng)
    sound = gearbox.healthy(steady_run(), rng)
    mesh = gearbox.n_teeth * RATE
    for harmonic in (1, 2):
        line = amplitude(sound, harmonic * mesh)
        assert line > 10 * floor(sound, harmonic * mesh)  # 20 dB
        assert line > 5 * amplitude(sound, harmonic * mesh + RATE)


@pytest.mark.parametrize("fault", ["tooth_damage", "misalignment"])
def test_gear_faults_raise_the_sidebands_at_the_shaft_rate(fault, rng):
    gearbox = Gearbox(rng)
    run = steady_run()
    healthy = gearbox.healthy(run, rng)
    added = gearbox.fault(fault, run, healthy, rng)
    mesh = gearbox.n_teeth * RATE
    for order in (-2, 2):  # the runout of a healthy gear has sidebands of order 1 only
        sidebands = [amplitude(healthy + s * added, mesh + order * RATE) for s in (0, 1, 2, 4)]
        assert np.all(np.diff(sidebands) > 0)
        assert sidebands[-1] > 4 * sidebands[0]


def test_tooth_damage_is_a_local_event_once_a_turn(rng):
    gearbox = Gearbox(rng)
    run = steady_run()
    healthy = gearbox.healthy(run, rng)
    power = gearbox.fault("tooth_damage", run, healthy, rng) ** 2
    near = np.abs((run.cycles - gearbox.damaged_angle - 0.05 + 0.5) % 1.0 - 0.5) < 0.15
    assert power[near].sum() > 0.9 * power.sum()


def test_blade_pass_is_at_blades_times_shaft_rate(rng):
    fan = Fan(rng)
    sound = fan.healthy(steady_run(), rng)
    lines = [amplitude(sound, order * RATE) for order in range(1, 2 * fan.n_blades)]
    assert np.argmax(lines) + 1 == fan.n_blades


def test_imbalance_raises_the_shaft_line_and_modulates_the_blade_pass(rng):
    fan = Fan(rng)
    run = steady_run()
    healthy = fan.healthy(run, rng)
    faulty = healthy + 2 * fan.fault("imbalance", run, healthy, rng)
    assert amplitude(faulty, RATE) > 3 * amplitude(healthy, RATE)
    upper = (fan.n_blades + 1) * RATE
    assert amplitude(faulty, upper) > 1.5 * amplitude(healthy, upper)


def test_chipped_blade_adds_orders_between_those_of_the_blade_pass(rng):
    fan = Fan(rng)
    run = steady_run()
    added = fan.fault("chipped_blade", run, fan.healthy(run, rng), rng)
    lines = np.array([amplitude(added, order * RATE) for order in range(1, fan.n_blades)])
    assert np.all(lines > 5 * floor(added, 2 * RATE))


def test_ball_pass_rates_are_those_of_the_textbook(rng):
    bearing = Bearing(rng)
    bearing.n_balls, bearing.diameter_ratio, bearing.contact_angle = 8, 0.25, 0.0
    assert (bearing.bpfo, bearing.bpfi) == (3.0, 5.0)


@pytest.mark.parametrize(("fault", "order"), [("outer_race", "bpfo"), ("inner_race", "bpfi")])
@pytest.mark.parametrize("seed", range(3))
def test_race_faults_show_at_their_rate_in_the_envelope_spectrum(fault, order, seed):
    rng = np.random.default_rng(seed)
    bearing = Bearing(rng)
    run = steady_run()
    healthy = bearing.healthy(run, rng)
    faulty = healthy + 2 * bearing.fault(fault, run, healthy, rng)
    frequencies, spectrum = envelope_spectrum(faulty, bearing.resonance)
    expected = getattr(bearing, order) * RATE
    # Below it are the low orders of the shaft, at which the load zone modulates.
    band = (frequencies > 0.6 * expected) & (frequencies < 1.5 * expected)
    assert_allclose(frequencies[band][np.argmax(spectrum[band])], expected, rtol=0.01)


def test_inner_race_fault_is_modulated_by_the_load_zone(rng):
    bearing = Bearing(rng)
    run = steady_run()
    healthy = bearing.healthy(run, rng)
    shaft_lines = {}
    for fault in bearing.faults:
        added = bearing.fault(fault, run, healthy, rng)
        frequencies, spectrum = envelope_spectrum(added, bearing.resonance)
        shaft_lines[fault] = spectrum[round(RATE * SECONDS)] / spectrum[frequencies > 10].max()
    assert shaft_lines["inner_race"] > 0.3
    assert shaft_lines["outer_race"] < 0.05


def test_valve_clicks_in_its_rhythm(rng):
    valve = Valve(rng)
    run = steady_run(rate=3.0)
    sound = valve.healthy(run, rng)
    loud = np.flatnonzero(np.abs(sound) > 0.5 * np.abs(sound).max())
    phases = run.cycles[loud] % 1.0
    to_opening = np.abs((phases + 0.5) % 1.0 - 0.5)
    to_closing = np.abs(phases - valve.open_share)
    assert np.minimum(to_opening, to_closing).max() < 0.05


def test_leak_hisses_while_the_valve_is_closed(rng):
    valve = Valve(rng)
    run = steady_run(rate=3.0)
    power = valve.fault("leak", run, valve.healthy(run, rng), rng) ** 2
    is_open = (run.cycles % 1.0 > 0.03) & (run.cycles % 1.0 < valve.open_share - 0.03)
    assert power[is_open].sum() < 1e-6 * power.sum()


def test_rail_defect_knocks_where_the_pit_is_in_either_direction(rng):
    slider = Slider(rng)
    run = steady_run(rate=2.5)
    knocks = slider.fault("rail_defect", run, slider.healthy(run, rng), rng)
    # The carriage is at cos(phase): the same place on the way forth and on the way back.
    power = np.convolve(knocks**2, np.ones(80), mode="same")
    place = np.cos(2 * np.pi * run.cycles[power > 0.2 * power.max()])
    assert np.ptp(place) < 0.35
    assert_allclose(np.median(place), np.cos(2 * np.pi * slider.defect_phase), atol=0.1)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("sample_rate", [8000, 48000])
def test_every_fault_has_its_stated_level_at_any_sample_rate(name, sample_rate, rng):
    machine = MACHINES[name](rng)
    run = steady_run(machine.rated_cpm / 60, sample_rate)
    healthy = machine.healthy(run, rng)
    for fault, decibels in machine.faults.items():
        added = machine.fault(fault, run, healthy, rng)
        assert np.isfinite(added).all()
        assert_allclose(10 * np.log10(np.mean(added**2) / np.mean(healthy**2)), decibels)


# The data set

SMALL = {"n_units": 1, "n_train": 4, "n_normal": 4, "n_anomalous": 4, "duration": 1.0}


def test_bunch_has_one_entry_a_clip():
    sounds = make_machine_sounds(**(SMALL | {"n_units": 2}), random_state=0)
    n_clips = 5 * 2 * (4 + 4 + 4)
    assert sounds.clips.shape == (n_clips, SAMPLE_RATE)
    assert sounds.clips.dtype == np.float32
    for name in ("y", "machine", "section", "domain", "split", "fault"):
        assert sounds[name].shape == (n_clips,)
    assert list(sounds.attributes.columns) == ["speed_cpm", "load"]
    assert len(sounds.attributes) == n_clips
    assert_array_equal(np.unique(sounds.machine), sorted(MACHINES))
    assert_array_equal(np.unique(sounds.section), [0, 1])
    assert set(sounds.units) == {(name, unit) for name in MACHINES for unit in (0, 1)}
    assert np.all(sounds.y[sounds.split == "train"] == 1)
    assert_array_equal(sounds.fault == "none", sounds.y == 1)
    for name, machine in MACHINES.items():
        faults = sounds.fault[(sounds.machine == name) & (sounds.y == -1)]
        assert set(faults) == set(machine.faults)


def test_target_domain_is_rare_in_training_and_half_of_the_test():
    sounds = make_machine_sounds(
        ["fan"], **(SMALL | {"n_train": 30, "n_units": 1}), target_fraction=0.1, random_state=0
    )
    train, target = sounds.split == "train", sounds.domain == "target"
    assert target[train].sum() == 3
    assert target[~train & (sounds.y == 1)].mean() == 0.5
    assert target[~train & (sounds.y == -1)].mean() == 0.5
    speeds = sounds.attributes["speed_cpm"]
    assert not set(speeds[target]) & set(speeds[~target])


@pytest.mark.parametrize(("target_fraction", "n_target"), [(0.0, 0), (0.01, 1), (1.0, 4)])
def test_target_fraction_rounds_up(target_fraction, n_target):
    sounds = make_machine_sounds(["fan"], **SMALL, target_fraction=target_fraction, random_state=0)
    assert (sounds.domain[sounds.split == "train"] == "target").sum() == n_target


def test_shaft_lines_are_at_the_stated_speed():
    sounds = make_machine_sounds(
        ["bearing"], n_units=1, n_train=6, n_normal=0, n_anomalous=0, snr=np.inf, random_state=0
    )
    for clip, speed_cpm in zip(sounds.clips, sounds.attributes["speed_cpm"], strict=True):
        spectrum = np.abs(np.fft.rfft(clip))
        frequencies = np.fft.rfftfreq(len(clip), 1 / SAMPLE_RATE)
        for order in (1, 2):
            expected = order * speed_cpm / 60
            band = np.abs(frequencies / expected - 1) < 0.2
            found = frequencies[band][np.argmax(spectrum[band])]
            assert_allclose(found, expected, rtol=0.012)  # the speed drifts by 0.4 % at full load


@pytest.mark.slow
@pytest.mark.parametrize("snr", [-6.0, 0.0, 12.0])
def test_snr_is_the_one_asked_for(snr):
    asked = make_machine_sounds(**SMALL, severity=0, snr=snr, random_state=0).clips
    clean = make_machine_sounds(**SMALL, severity=0, snr=np.inf, random_state=0).clips
    noise = asked.astype(np.float64) - clean
    power_ratio = np.sum(clean.astype(np.float64) ** 2, axis=1) / np.sum(noise**2, axis=1)
    assert_allclose(10 * np.log10(power_ratio), snr, atol=0.1)


def test_same_seed_gives_the_same_clips_and_another_gives_others():
    first, again = (make_machine_sounds(["fan"], **SMALL, random_state=3) for _ in range(2))
    assert_array_equal(first.clips, again.clips)
    assert first.attributes.equals(again.attributes)
    other = make_machine_sounds(["fan"], **SMALL, random_state=4)
    assert not np.any(np.all(first.clips == other.clips, axis=1))


def test_no_two_clips_are_alike():
    sounds = make_machine_sounds(**SMALL, random_state=0)
    assert len(np.unique(sounds.clips, axis=0)) == len(sounds.clips)


def test_clips_do_not_depend_on_what_else_is_asked_for():
    small = make_machine_sounds(["valve", "fan"], **SMALL, random_state=0)
    large = make_machine_sounds(
        ["bearing", "fan", "valve"],
        n_units=2,
        n_train=6,
        n_normal=7,
        n_anomalous=5,
        duration=1.0,
        random_state=0,
    )
    for machine in ("valve", "fan"):
        for split, y in (("train", 1), ("test", 1), ("test", -1)):
            few, many = (
                s.clips[(s.machine == machine) & (s.section == 0) & (s.split == split) & (s.y == y)]
                for s in (small, large)
            )
            assert_array_equal(few, many[:4])


def test_severities_are_paired_and_scale_the_fault_only():
    none, one, three = (make_machine_sounds(**SMALL, severity=s, random_state=0) for s in (0, 1, 3))
    normal = none.y == 1
    assert_array_equal(one.clips[normal], none.clips[normal])
    fault = one.clips[~normal].astype(np.float64) - none.clips[~normal]
    assert np.all(np.abs(fault).max(axis=1) > 0)
    assert_allclose(three.clips[~normal] - none.clips[~normal].astype(float), 3 * fault, atol=1e-6)


def test_level_alone_does_not_tell_anomalies():
    sounds = make_machine_sounds(
        **(SMALL | {"n_train": 0, "n_normal": 16, "n_anomalous": 16}), random_state=0
    )
    level = np.sqrt(np.mean(sounds.clips**2, axis=1))
    # 80 clips of either kind: the standard error of the AUC is 0.046.
    assert_allclose(roc_auc_score(sounds.y == -1, level), 0.5, atol=0.12)


@pytest.mark.parametrize("sample_rate", [8000, 44100])
def test_clips_of_any_sample_rate_are_finite_and_not_clipped(sample_rate):
    sounds = make_machine_sounds(**SMALL, sample_rate=sample_rate, random_state=0)
    assert sounds.clips.shape[1] == sounds.sample_rate == sample_rate
    assert np.all(np.abs(sounds.clips) < 1)


def test_counts_may_be_zero():
    sounds = make_machine_sounds(["fan"], n_train=0, n_normal=0, n_anomalous=0)
    assert sounds.clips.shape == (0, 10 * SAMPLE_RATE)
    assert sounds.attributes.shape == (0, 2)


# How hard it is


def mel_statistics(clip):
    frames = fbank(torch.from_numpy(clip)[None] * 2**15, num_mel_bins=128, dither=0.0)
    return torch.cat([frames.mean(dim=0), frames.std(dim=0)]).numpy()


@pytest.mark.slow
def test_mel_statistics_find_faults_by_their_severity():
    # Clips do not depend on how many are asked for, so the normal ones need be made only once.
    park = {"n_units": 1, "duration": 4.0, "random_state": 0}
    normal = make_machine_sounds(n_train=24, n_normal=12, n_anomalous=0, **park)
    features = np.array([mel_statistics(clip) for clip in normal.clips])
    test = normal.split == "test"
    aucs = []
    for severity in (0, 1, 2, 8):
        anomalous = make_machine_sounds(
            n_train=0, n_normal=0, n_anomalous=12, severity=severity, **park
        )
        faulty_features = np.array([mel_statistics(clip) for clip in anomalous.clips])
        aucs.append([])
        for name in MACHINES:
            ours = normal.machine == name
            detector = LedoitWolf().fit(features[ours & ~test])
            healthy = detector.mahalanobis(features[ours & test])
            faulty = detector.mahalanobis(faulty_features[anomalous.machine == name])
            aucs[-1].append(roc_auc_score(np.repeat([0, 1], 12), np.r_[healthy, faulty]))
    none, default, severe, obvious = np.array(aucs)
    assert np.all(default < 0.9), dict(zip(MACHINES, default, strict=True))
    assert np.all(obvious > 0.9), dict(zip(MACHINES, obvious, strict=True))
    assert np.all(np.diff(aucs, axis=0) >= -0.02)
    # 60 clips of either kind: the standard error of the mean AUC at severity 0 is 0.05.
    assert_allclose(none.mean(), 0.5, atol=0.12)
    assert 0.55 < default.mean() < severe.mean()


# Wrong parameters


@pytest.mark.parametrize(
    "machines", [["pump"], ["fan", "fan"], []], ids=["unknown", "twice", "none at all"]
)
def test_wrong_machines_are_named(machines):
    with pytest.raises(ValueError, match="parameter of make_machine_sounds") as error:
        make_machine_sounds(machines)
    assert str(error.value) == (
        "The 'machines' parameter of make_machine_sounds must be None or different names among "
        f"['bearing', 'fan', 'gearbox', 'slider', 'valve']. Got {machines} instead."
    )


@pytest.mark.parametrize(
    ("parameter", "value", "right"),
    [
        ("machines", "fan", "an array-like or None"),
        ("n_units", 0, "an int in the range [1, inf)"),
        ("n_anomalous", -1, "an int in the range [0, inf)"),
        ("severity", -0.5, "a float in the range [0.0, inf)"),
        ("snr", float("nan"), "a float in the range (-inf, inf]"),
        ("target_fraction", 1.5, "a float in the range [0.0, 1.0]"),
        ("duration", 0.5, "a float in the range [1.0, inf)"),
        ("sample_rate", 4000, "an int in the range [8000, inf)"),
    ],
)
def test_parameters_out_of_range_are_named(parameter, value, right):
    with pytest.raises(ValueError, match="parameter of make_machine_sounds") as error:
        make_machine_sounds(**{parameter: value})
    assert str(error.value) == (
        f"The '{parameter}' parameter of make_machine_sounds must be {right}. "
        f"Got {value!r} instead."
    )
