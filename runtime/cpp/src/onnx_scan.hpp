// Finds the files that an ONNX graph reads: a walk over the protobuf wire format.
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace vcut_core {

// Returns every external data location that a serialized ModelProto names. Throws Wrong if it is not well-formed.
std::set<std::string> external_locations(std::string_view model);

}  // namespace vcut_core
