// Loads a SavedModel with the C++ loader that TensorFlow Serving uses, runs some of its tensors
// once and prints them as one JSON object, {name: {"dtype", "shape", "values"}}, in which values
// is flat, in row-major order. Written against TensorFlow's C API, whose headers compile at once.
//
//   loader SAVED_MODEL_DIR [--xla_off] [--op_library=PATH ...]
//          [--input=DTYPE,RANK,TENSOR=VALUE ...] [--output=NAME=TENSOR ...]
//
// A string VALUE is text, the entries of a batch separated by '|'. Of int32 inputs the rows are
// separated by ';' and the numbers by ','; a rank-1 input is one number per entry.

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

namespace tensorflow {
void DisableXlaCompilation();  // Its header, compiler/jit/flags.h, includes much of XLA.
}

using Strings = std::vector<std::string>;

void Require(bool condition, const std::string& message) {
  if (!condition) throw std::runtime_error(message);
}

struct Status {
  TF_Status* status = TF_NewStatus();
  operator TF_Status*() { return status; }
  void Check() { Require(TF_GetCode(status) == TF_OK, TF_Message(status)); }
};

Strings Split(const std::string& text, char separator) {
  Strings parts(1);
  for (const char c : text) {
    if (c == separator) parts.emplace_back();
    else parts.back() += c;
  }
  return parts;
}

TF_Tensor* Texts(const Strings& rows) {
  const int64_t count = rows.size();
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, &count, 1, count * sizeof(TF_TString));
  auto* strings = static_cast<TF_TString*>(TF_TensorData(tensor));
  for (const std::string& row : rows) {
    TF_StringInit(strings);
    TF_StringCopy(strings++, row.data(), row.size());
  }
  return tensor;
}

TF_Tensor* Numbers(const std::string& text, int rank) {
  const Strings rows = Split(text, ';');
  Require(rows.size() == 1 || rank == 2, "rows for an input of rank 1: " + text);
  std::vector<int32_t> numbers;
  for (const std::string& row : rows) {
    const Strings entries = Split(row, ',');
    Require(entries.size() == Split(rows[0], ',').size(), "rows of different lengths: " + text);
    for (const std::string& entry : entries) numbers.push_back(std::stoi(entry));
  }
  const int64_t count = numbers.size(), height = rows.size();
  const int64_t shape[] = {height, count / height};
  TF_Tensor* tensor = TF_AllocateTensor(TF_INT32, rank == 2 ? shape : shape + 1, rank,
                                        count * sizeof(int32_t));
  std::copy(numbers.begin(), numbers.end(), static_cast<int32_t*>(TF_TensorData(tensor)));
  return tensor;
}

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const unsigned char c : text) {  // From 0x80 up are the bytes of UTF-8, legal as they are.
    char escaped[7] = {static_cast<char>(c)};
    if (c < 0x20 || c == '"' || c == '\\') snprintf(escaped, sizeof(escaped), "\\u%04x", c);
    out += escaped;
  }
  return out + '"';
}

template <typename T>
std::string Values(const TF_Tensor* tensor) {
  std::ostringstream out;
  out.precision(std::numeric_limits<T>::max_digits10);  // Enough to read the same number back.
  for (int64_t i = 0; i < TF_TensorElementCount(tensor); ++i) {
    const T& value = static_cast<T*>(TF_TensorData(tensor))[i];
    out << (i > 0 ? ", " : "");
    if constexpr (std::is_same_v<T, TF_TString>) {
      out << Quoted({TF_StringGetDataPointer(&value), TF_StringGetSize(&value)});
    } else if constexpr (std::is_floating_point_v<T>) {
      // JSON has no words for what is not finite; Python's reader takes these.
      if (std::isfinite(value)) out << value;
      else out << (std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
    } else {
      out << std::boolalpha << value;
    }
  }
  return out.str();
}

std::string Output(const TF_Tensor* tensor) {
  std::string dtype, values, shape;
  switch (TF_TensorType(tensor)) {
    case TF_STRING: dtype = "string", values = Values<TF_TString>(tensor); break;
    case TF_BOOL: dtype = "bool", values = Values<bool>(tensor); break;
    case TF_INT32: dtype = "int32", values = Values<int32_t>(tensor); break;
    case TF_INT64: dtype = "int64", values = Values<int64_t>(tensor); break;
    case TF_FLOAT: dtype = "float", values = Values<float>(tensor); break;
    default: Require(false, "cannot print type " + std::to_string(TF_TensorType(tensor)));
  }
  for (int i = 0; i < TF_NumDims(tensor); ++i) {
    shape += (i > 0 ? ", " : "") + std::to_string(TF_Dim(tensor, i));
  }
  return "{\"dtype\": \"" + dtype + "\", \"shape\": [" + shape + "], \"values\": [" + values + "]}";
}

void Main(const Strings& arguments) {
  Require(!arguments.empty(), "usage: loader SAVED_MODEL_DIR [FLAG ...]");
  Strings inputs, outputs;
  for (size_t i = 1; i < arguments.size(); ++i) {
    const size_t end = std::min(arguments[i].find('='), arguments[i].size());
    const std::string name = arguments[i].substr(0, end);
    const std::string value = arguments[i].substr(std::min(end + 1, arguments[i].size()));
    if (name == "--xla_off") {
      tensorflow::DisableXlaCompilation();
    } else if (name == "--op_library") {
      // Its ops register themselves as the library opens. Local, as Python opens them.
      if (dlopen(value.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) {
        throw std::runtime_error(dlerror());
      }
    } else {
      Require(name == "--input" || name == "--output", "not a flag: " + arguments[i]);
      (name == "--input" ? inputs : outputs).push_back(value);
    }
  }

  Status status;
  TF_Graph* graph = TF_NewGraph();
  const char* tag = "serve";
  TF_Session* session = TF_LoadSessionFromSavedModel(
      TF_NewSessionOptions(), nullptr, arguments[0].c_str(), &tag, 1, graph, nullptr, status);
  status.Check();
  const auto find = [graph](const std::string& tensor) -> TF_Output {
    const Strings parts = Split(tensor, ':');
    TF_Operation* operation = TF_GraphOperationByName(graph, parts[0].c_str());
    Require(operation != nullptr, "no tensor " + tensor);
    return {operation, std::stoi(parts.at(1))};
  };

  std::vector<TF_Output> feeds, fetches;
  std::vector<TF_Tensor*> values;
  for (const std::string& input : inputs) {
    const size_t end = input.find('=');
    const Strings parts = Split(input.substr(0, end), ',');
    const int rank = std::stoi(parts.at(1));
    const std::string value = input.substr(end + 1);
    const bool is_string = parts[0] == "string";
    Require(is_string || parts[0] == "int32", "cannot feed " + parts[0]);
    Require(rank == 1 || (rank == 2 && !is_string), "cannot feed rank " + parts[1]);
    feeds.push_back(find(parts.at(2)));
    values.push_back(is_string ? Texts(Split(value, '|')) : Numbers(value, rank));
  }
  Strings names;
  for (const std::string& output : outputs) {
    const size_t end = output.find('=');
    names.push_back(output.substr(0, end));
    fetches.push_back(find(output.substr(end + 1)));
  }
  std::vector<TF_Tensor*> found(fetches.size());
  TF_SessionRun(session, nullptr, feeds.data(), values.data(), feeds.size(), fetches.data(),
                found.data(), fetches.size(), nullptr, 0, nullptr, status);
  status.Check();
  std::string json;
  for (size_t i = 0; i < names.size(); ++i) {
    json += (i > 0 ? ", " : "") + Quoted(names[i]) + ": " + Output(found[i]);
  }
  std::cout << "{" << json << "}" << std::endl;
}

int main(int argc, char** argv) {
  try {
    Main({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
