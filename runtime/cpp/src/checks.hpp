// Checks of a manifest's content that the types of its fields cannot express.
#pragma once

#include "manifest.hpp"

namespace vcut_core {

// Checks a manifest before any other file of its bundle is read. Throws Wrong.
void check_manifest(const Manifest& manifest);

// Checks that a bundle can play a schedule. Throws Wrong, which names the first wrong row.
void check_schedule(const Schedule& schedule, const Manifest& manifest);

}  // namespace vcut_core
