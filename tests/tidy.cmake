# clang-tidy over the sources that the programs consist of (.clang-tidy has the checks), as a test. It is a target of the
# build, so that it runs in parallel, and a second time only for what has changed: a source is looked at again when its
# object file is newer.
set(checked)
foreach(library cowslip_common cowslip_pool_manager cowslip_device_actor cowslip_mount_actor cowslip_ctl)
  if(NOT TARGET ${library})
    continue()
  endif()
  get_target_property(sources ${library} SOURCES)
  foreach(source ${sources})
    file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${source})
    add_custom_command(
      OUTPUT ${CMAKE_BINARY_DIR}/tidy/${name}
      COMMAND clang-tidy-14 -p ${CMAKE_BINARY_DIR} --quiet ${source} 2>&1
      COMMAND ${CMAKE_COMMAND} -E touch ${CMAKE_BINARY_DIR}/tidy/${name}
      DEPENDS ${CMAKE_BINARY_DIR}/CMakeFiles/${library}.dir/${name}.o ${CMAKE_SOURCE_DIR}/.clang-tidy
      COMMENT "clang-tidy ${name}"
      VERBATIM)
    list(APPEND checked ${CMAKE_BINARY_DIR}/tidy/${name})
  endforeach()
endforeach()
add_custom_target(tidy DEPENDS ${checked})

cmake_host_system_information(RESULT processors QUERY NUMBER_OF_LOGICAL_CORES)
cowslip_script_test(tidy 900 ninja -C ${CMAKE_BINARY_DIR} --quiet -k 0 tidy)
set_tests_properties(tidy PROPERTIES PROCESSORS ${processors})
