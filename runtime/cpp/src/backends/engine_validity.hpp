// Tells whether engines can run on this GPU with this library. It reads nothing large.
#pragma once

#include <memory>
#include <string>

#include "backends/cuda.hpp"
#include "backends/engine.hpp"
#include "backends/factories.hpp"
#include "bundle.hpp"

namespace vcut_core {

// Why the engines of a target cannot run on this GPU, and what to do; empty if they can.
std::string why_invalid(const Bundle& bundle, const std::string& target, const EngineLibrary& library,
                        const Cuda& cuda);

// Throws Error if the bundle has no engines of this library.
void check_has_engines(const Bundle& bundle, const std::string& library);

// Offers the engines of the library that are valid on this GPU, those built for exactly this GPU first. Throws Error if
// there are none.
Offer choose_engines(const Bundle& bundle, const std::shared_ptr<const EngineLibrary>& library,
                     std::shared_ptr<Cuda> cuda);

}  // namespace vcut_core
