"""Score recordings with an ONNX file of skanopatch, without skanopatch: NumPy and onnxruntime.

    python score.py fan.onnx recording.wav ...

Recordings are mono, of 16 bits and of the model's rate. Of a long one the first window is scored.
"""

import sys
import wave

import numpy as np
import onnxruntime


def main(path, *recordings):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    rate, offset = int(properties["sample_rate"]), float(properties["offset"])
    for recording in recordings:
        with wave.open(recording) as file:
            form = file.getframerate(), file.getnchannels(), file.getsampwidth()
            if form != (rate, 1, 2):
                sys.exit(f"{recording} must be mono, 16 bit, {rate} Hz. Its form is {form}.")
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768)
        outputs = ["score", "decision", "p_value"]
        score, decision, p_value = session.run(outputs, {"waveform": samples[np.newaxis]})
        word = "anomaly" if decision[0] < 0 else "normal"  # the threshold has the score / offset 1
        print(f"{score[0] / offset:.6f} {p_value[0]:.4f} {word} {recording}")


if __name__ == "__main__":
    main(*sys.argv[1:])
