# Stand-in for the CMake package of a Slicer build: what `find_package(Slicer)` tells an extension of Python modules.
set(Slicer_FOUND TRUE)
set(Slicer_MAIN_PROJECT_APPLICATION_NAME Slicer)
set(Slicer_LIB_DIR lib/Slicer-5.13)
set(Slicer_SHARE_DIR share/Slicer-5.13)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR ${Slicer_LIB_DIR}/qt-scripted-modules)
set(Slicer_LAUNCHER_EXECUTABLE ${CMAKE_CURRENT_LIST_DIR}/../../headless/Slicer)

set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/GenerateConfig.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Package.cmake)
