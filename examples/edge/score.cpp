// Score recordings with an ONNX file of skanopatch: C++17 and the C API of onnxruntime, nothing else.
//
//     c++ -std=c++17 -O2 score.cpp -o score -I $ONNXRUNTIME_ROOT/include
//       -L $ONNXRUNTIME_ROOT/lib -lonnxruntime -Wl,-rpath,$ONNXRUNTIME_ROOT/lib
//     ./score fan.onnx recording.wav ...
//
// ONNXRUNTIME_ROOT is the unpacked release of onnxruntime for your machine. Recordings are mono, of
// 16 bits and of the model's rate. Of a long one the first window is scored.

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

const OrtApi& api = *OrtGetApiBase()->GetApi(ORT_API_VERSION);

void check(OrtStatus* status) {
  if (status != nullptr) throw std::runtime_error(api.GetErrorMessage(status));
}

// Return the samples of a wav file in [-1, 1); little-endian machines only.
std::vector<float> read_wav(const std::string& path, long rate) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  auto number = [&](size_t at, auto value) {
    if (at + sizeof value > bytes.size()) throw std::runtime_error(path + " is no whole wav file");
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  };
  if (bytes.size() < 12 || std::memcmp(bytes.data() + 8, "WAVE", 4) != 0)
    throw std::runtime_error(path + " is no wav file");
  for (size_t at = 12; at + 8 <= bytes.size();) {
    size_t size = number(at + 4, uint32_t{});
    if (std::memcmp(bytes.data() + at, "fmt ", 4) == 0) {
      bool is_right = number(at + 10, uint16_t{}) == 1 && number(at + 22, uint16_t{}) == 16 &&
                      number(at + 12, uint32_t{}) == static_cast<uint32_t>(rate);
      if (!is_right)
        throw std::runtime_error(path + " must be mono, 16 bit, " + std::to_string(rate) + " Hz");
    } else if (std::memcmp(bytes.data() + at, "data", 4) == 0) {
      std::vector<float> samples(std::min(size, bytes.size() - at - 8) / 2);
      for (size_t i = 0; i < samples.size(); ++i)
        samples[i] = number(at + 8 + 2 * i, int16_t{}) / 32768.0f;
      return samples;
    }
    at += 8 + size + size % 2;
  }
  throw std::runtime_error(path + " has no samples");
}

int main(int n_arguments, char** arguments) try {
  if (n_arguments < 2) throw std::runtime_error("usage: score fan.onnx recording.wav ...");
  OrtEnv* env = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  OrtModelMetadata* metadata = nullptr;
  OrtAllocator* allocator = nullptr;
  OrtMemoryInfo* memory = nullptr;
  check(api.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "score", &env));
  check(api.CreateSessionOptions(&options));
  check(api.CreateSession(env, arguments[1], options, &session));
  check(api.SessionGetModelMetadata(session, &metadata));
  check(api.GetAllocatorWithDefaultOptions(&allocator));
  check(api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  auto property = [&](const char* name) {
    char* text = nullptr;
    check(api.ModelMetadataLookupCustomMetadataMap(metadata, allocator, name, &text));
    if (text == nullptr) throw std::runtime_error("The file is none of skanopatch.");
    const double value = std::stod(text);
    check(api.AllocatorFree(allocator, text));
    return value;
  };
  const double offset = property("offset");
  const auto rate = static_cast<long>(property("sample_rate"));
  const std::array<const char*, 1> inputs{"waveform"};
  const std::array<const char*, 3> outputs{"score", "decision", "p_value"};
  for (int i = 2; i < n_arguments; ++i) {
    auto samples = read_wav(arguments[i], rate);
    const std::array<int64_t, 2> shape{1, static_cast<int64_t>(samples.size())};
    OrtValue* waveform = nullptr;
    std::array<OrtValue*, 3> values{};
    std::array<double, 3> numbers{};
    check(api.CreateTensorWithDataAsOrtValue(memory, samples.data(), samples.size() * sizeof(float),
                                             shape.data(), shape.size(),
                                             ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &waveform));
    check(api.Run(session, nullptr, inputs.data(), &waveform, 1, outputs.data(), outputs.size(),
                  values.data()));
    for (size_t output = 0; output < outputs.size(); ++output) {
      void* data = nullptr;
      check(api.GetTensorMutableData(values[output], &data));
      numbers[output] = *static_cast<double*>(data);
      api.ReleaseValue(values[output]);
    }
    api.ReleaseValue(waveform);
    const auto [score, decision, p_value] = numbers;
    // The threshold has the score / offset 1.
    std::printf("%.6f %.4f %s %s\n", score / offset, p_value, decision < 0 ? "anomaly" : "normal",
                arguments[i]);
  }
  api.ReleaseMemoryInfo(memory);
  api.ReleaseModelMetadata(metadata);
  api.ReleaseSession(session);
  api.ReleaseSessionOptions(options);
  api.ReleaseEnv(env);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
