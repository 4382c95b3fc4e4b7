# KERNELS: sources of the kernels, compiled once for each instruction set, and the choice between them.
# TOWER: sources of the engines of sparse linear stacks, which call the kernels.
cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH CORE_DIR)
set(KERNELS kernels/kernels kernels/targets/portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND KERNELS kernels/targets/avx2 kernels/targets/avx512)
endif()
# The AMX engine needs a compiler with AMX; the machine is checked at run time.
set(AMX_SOURCES)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag("-mavx512bf16 -mamx-tile -mamx-bf16" COMPILER_HAS_AMX)
  if(COMPILER_HAS_AMX)
    set(AMX_SOURCES tower/amx/pack tower/amx/forward tower/amx/weights tower/amx/rows)
    list(APPEND KERNELS tower/amx/engine ${AMX_SOURCES})
    add_compile_definitions(MONOLITH_HAS_AMX)
  endif()
endif()
list(TRANSFORM KERNELS PREPEND ${CORE_DIR}/)
list(TRANSFORM KERNELS APPEND .cpp)
# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning.
set(KERNEL_OPTIONS -fno-math-errno -fno-trapping-math -fno-signed-zeros -fassociative-math)
set_source_files_properties(${KERNELS} PROPERTIES COMPILE_OPTIONS "${KERNEL_OPTIONS}")
set_source_files_properties(${CORE_DIR}/kernels/targets/avx2.cpp PROPERTIES COMPILE_OPTIONS "${KERNEL_OPTIONS};-march=x86-64-v3")
set_source_files_properties(${CORE_DIR}/kernels/targets/avx512.cpp
                            PROPERTIES COMPILE_OPTIONS "${KERNEL_OPTIONS};-march=x86-64-v4;-mprefer-vector-width=512")
set(TOWER tower/vector/engine.cpp tower/vector/forward.cpp tower/vector/backward.cpp)
list(TRANSFORM TOWER PREPEND ${CORE_DIR}/)
# GCC 12's own AVX-512 intrinsics use an uninitialised variable, and it warns of them.
foreach(source ${AMX_SOURCES})
  set_source_files_properties(${CORE_DIR}/${source}.cpp PROPERTIES COMPILE_OPTIONS
    "-march=x86-64-v4;-mprefer-vector-width=512;-mavx512bf16;-mamx-tile;-mamx-bf16;-Wno-uninitialized;-Wno-maybe-uninitialized")
endforeach()
