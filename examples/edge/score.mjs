// Score recordings with an ONNX file of skanopatch in Node, by WebAssembly as in a browser.
//
//     npm install onnxruntime-web
//     node score.mjs fan.onnx recording.wav ...
//
// Recordings are mono, of 16 bits and of the model's rate. The web's runtime does not show the
// properties of a file; the decision needs none of them.

import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";

const [model, ...recordings] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(await readFile(model));
for (const recording of recordings) {
  const bytes = await readFile(recording);
  let at = 12; // after RIFF, size and WAVE
  while (bytes.toString("latin1", at, at + 4) !== "data") at += 8 + bytes.readUInt32LE(at + 4);
  const samples = new Float32Array(bytes.readUInt32LE(at + 4) / 2);
  for (let i = 0; i < samples.length; i++) samples[i] = bytes.readInt16LE(at + 8 + 2 * i) / 32768;
  const waveform = new ort.Tensor("float32", samples, [1, samples.length]);
  const { score, decision, p_value } = await session.run({ waveform });
  // decision = score - offset, and the threshold has the score / offset 1.
  const relative = score.data[0] / (score.data[0] - decision.data[0]);
  const word = decision.data[0] < 0 ? "anomaly" : "normal";
  console.log(relative.toFixed(6), p_value.data[0].toFixed(4), word, recording);
}
