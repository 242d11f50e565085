# The backends for TensorRT and TensorRT-RTX. Their libraries and the driver are loaded when they are needed.
find_path(VCUT_CUDA_INCLUDE cuda_runtime_api.h HINTS ${CUDAToolkit_ROOT}/include ENV CUDA_PATH /usr/local/cuda/include
          PATH_SUFFIXES include)
if(NOT VCUT_CUDA_INCLUDE)
  message(FATAL_ERROR "cuda_runtime_api.h is not here, and TensorRT's headers need it: install CUDA's headers or give "
                      "-DCUDAToolkit_ROOT=FOLDER")
endif()

# Compiles the source that TensorRT's headers go into for the library whose headers are under root.
function(vcut_nvinfer target root is_rtx)
  find_path(${target}_INCLUDE NvInferRuntime.h HINTS ${root}/include ${root} NO_DEFAULT_PATH)
  set(name nvinfer)
  if(root AND NOT ${target}_INCLUDE)
    message(FATAL_ERROR "NvInferRuntime.h is not in ${root}: give the folder of the library's headers")
  elseif(NOT ${target}_INCLUDE)
    set(name nvinfer_missing)
  endif()
  add_library(${target} OBJECT src/backends/${name}.cpp)
  target_include_directories(${target} PRIVATE src)
  target_link_libraries(${target} PRIVATE vcut_flags)
  target_compile_definitions(${target} PRIVATE VCUT_NVINFER_RTX=${is_rtx} VCUT_NVINFER_NAMESPACE=${target}_headers)
  if(${target}_INCLUDE)
    target_include_directories(${target} SYSTEM PRIVATE ${${target}_INCLUDE} ${VCUT_CUDA_INCLUDE})
  endif()
endfunction()

if(NOT TENSORRT_ROOT AND NOT TENSORRT_RTX_ROOT)
  message(FATAL_ERROR "VCUT_TENSORRT needs headers: give -DTENSORRT_ROOT=FOLDER, -DTENSORRT_RTX_ROOT=FOLDER or both")
endif()
vcut_nvinfer(vcut_nvinfer "${TENSORRT_ROOT}" 0)
vcut_nvinfer(vcut_nvinfer_rtx "${TENSORRT_RTX_ROOT}" 1)
target_sources(vcut_tensorrt PRIVATE src/backends/cuda_driver.cpp src/backends/tensorrt.cpp)
list(APPEND VCUT_PARTS vcut_tensorrt vcut_nvinfer vcut_nvinfer_rtx)
