// Classifies with libedgec: classify MODEL.edge INPUT.bin (the input's elements as they lie in memory)
#include <cstdio>
#include <fstream>
#include <memory>
#include <vector>

#include "edgec.h"

int main(int, char **values) {
  edgec_model *model = nullptr;
  edgec_session *session = nullptr;
  if (edgec_load(values[1], 0, &model) || edgec_open(model, nullptr, &session)) return std::puts(edgec_last_error()), 1;
  std::unique_ptr<edgec_model, decltype(&edgec_unload)> unload(model, edgec_unload);
  std::unique_ptr<edgec_session, decltype(&edgec_close)> close(session, edgec_close);
  std::vector<char> input(edgec_input(model, 0)->bytes), output(edgec_output(model, 0)->bytes);
  std::ifstream(values[2], std::ios::binary).read(input.data(), static_cast<std::streamsize>(input.size()));
  const void *inputs[] = {input.data()};
  void *outputs[] = {output.data()};
  if (edgec_run(session, inputs, outputs)) return std::puts(edgec_last_error()), 1;
  for (size_t i = 0; i < output.size() / 4; i++) std::printf("%zu %.9g\n", i, reinterpret_cast<float *>(output.data())[i]);
}
