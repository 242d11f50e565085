// Finds the files that an ONNX graph reads its operators and its sizes: a walk over the protobuf wire format.
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace vcut_core {

// What a graph file refers to.
struct GraphFacts {
  std::set<std::string> locations;  // files of external data
  std::set<std::string> operators;  // of all nodes; domain::name outside of ONNX's own domain
  double largest = 0;               // numbers that the largest constant size asks an operator to make
};

// Reads a serialized ModelProto. Throws Wrong if it is not well-formed.
GraphFacts scan_graph(std::string_view model);

// Tells whether the exporter writes this operator. Others could run for ever, as Loop can.
bool is_exported(const std::string& name);

}  // namespace vcut_core
