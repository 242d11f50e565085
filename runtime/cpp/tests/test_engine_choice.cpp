// Which engines run on a GPU, and why the others do not.
#include <doctest/doctest.h>

#include "fake_machine.hpp"

using namespace vcut_core;

namespace {

std::string refusal(Machine& machine) {
  return refusal_of([&] { choose_engines(*machine.bundle, machine.library, std::make_shared<Cuda>(machine.gpu)); });
}

std::string rebuild(const Machine& machine) {
  return "run 'vcut build " + machine.bundle->root.string() + " --engines tensorrt-rtx --gpu this'";
}

}  // namespace

TEST_CASE("engines that fit are offered, those of this GPU first") {
  Machine machine;
  EngineSet portable = machine.engines();
  portable.compute_capability.reset();
  EngineSet own = machine.engines();
  machine.bundle->manifest.engines = {};
  machine.bundle->manifest.engines["portable"] = portable;
  machine.bundle->manifest.engines["own"] = own;
  const Offer offer = choose_engines(*machine.bundle, machine.library, std::make_shared<Cuda>(machine.gpu));
  CHECK(offer.reason == "engines own fit Fake A10 (compute capability 8.6)");
  machine.gpu->minor = 9;
  CHECK(choose_engines(*machine.bundle, machine.library, std::make_shared<Cuda>(machine.gpu)).reason ==
        "engines portable fit Fake A10 (compute capability 8.9)");
}

TEST_CASE("each refusal says why, and what to do") {
  Machine machine;
  const std::string target = "engines tensorrt-rtx-sm86: ";
  CHECK(refusal(machine).empty());
  machine.gpu->minor = 9;
  CHECK(refusal(machine) == target + "they are for compute capability 8.6, Fake A10 has 8.9: " + rebuild(machine));
  machine.engines().compute_capability.reset();
  machine.gpu->major = 7;
  machine.gpu->minor = 5;
  CHECK(refusal(machine) ==
        target + "they are for compute capability 8.0 or later, Fake A10 has 7.5: " + rebuild(machine));
  machine.gpu->major = 9;
  machine.gpu->minor = 0;
  CHECK(refusal(machine) == target + "TensorRT-RTX does not run on Fake A10 (compute capability 9.0), only on 7.5, "
                                     "8.0, 8.6, 8.9, 12.0, 12.1: run 'vcut build " +
                                machine.bundle->root.string() + " --engines tensorrt --gpu this'");
  machine.gpu->major = 8;
  machine.trt->invalid = "unsupported cc";
  CHECK(refusal(machine) ==
        target + "TensorRT-RTX 1.2.3 finds them invalid here (unsupported cc): " + rebuild(machine));
  machine.library->version = "1.3.0";
  CHECK(refusal(machine) == target + "they were built by 1.2.3 and 1.3.0 is installed, which reads only its own: " +
                                rebuild(machine) + ", or install that version");
  EngineSet& set = machine.engines();
  Ordered<Engine> rest;
  for (const auto& [name, engine] : set.engines) {
    if (name != "decode") rest[name] = engine;
  }
  set.engines = rest;
  CHECK(refusal(machine) == target + "they lack decode, " + rebuild(machine));
  CHECK(refusal_of([&] { machine.pipeline(); }) ==
        "the engines tensorrt-rtx-sm86 lack decode: run 'vcut build " + machine.bundle->root.string() + "'");
  machine.bundle->manifest.engines = {};
  CHECK(refusal_of([&] { check_has_engines(*machine.bundle, "tensorrt"); }) ==
        "the bundle has no tensorrt engines: run 'vcut build " + machine.bundle->root.string() +
            " --engines tensorrt', or use another --backend");
}

TEST_CASE("a machine without a GPU") {
  const auto gpu = std::make_shared<FakeGpu>();
  const std::string none = "no NVIDIA GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES";
  gpu->count = 0;
  CHECK(refusal_of([&] { Cuda cuda(gpu); }) == none);
  gpu->start = FakeGpu::no_device;
  CHECK(refusal_of([&] { Cuda cuda(gpu); }) == none);
  gpu->start = 999;
  CHECK(refusal_of([&] { Cuda cuda(gpu); }) == "CUDA does not start (fake error): check nvidia-smi");
}
